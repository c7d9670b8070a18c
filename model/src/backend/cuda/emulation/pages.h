// Memory between inaccessible pages.
#pragma once

#include <stddef.h>
#include <sys/mman.h>

namespace shim {

#if defined(__x86_64__)
constexpr size_t PAGE = 4096;
#else
constexpr size_t PAGE = 64 << 10; // the largest page size of ARM processors; others divide it
#endif
constexpr size_t GUARD = 1 << 20; // inaccessible bytes on both sides of memory: they cost only address space
constexpr unsigned char POISON = 0xff; // fills new memory: NaN in every floating-point type, and -1
constexpr unsigned char CANARY = 0xc5; // fills the accessible bytes around it

// Maps `bytes` bytes, a multiple of the page size; null if there is no memory.
inline unsigned char* pages(size_t bytes) {
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return at == MAP_FAILED ? nullptr : static_cast<unsigned char*>(at);
}

// Makes pages inaccessible: touching them faults.
inline bool close(unsigned char* at, size_t bytes) { return mprotect(at, bytes, PROT_NONE) == 0; }

} // namespace shim
