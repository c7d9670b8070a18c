// Memory between pages that cannot be touched.
#pragma once

#include <stddef.h>
#include <sys/mman.h>

namespace shim {

#if defined(__x86_64__)
constexpr size_t PAGE = 4096;
#else
constexpr size_t PAGE = 64 << 10; // the largest that processors of ARM have; others divide it
#endif
constexpr size_t GUARD = 1 << 20; // closed bytes on both sides of memory: they cost addresses only
constexpr unsigned char POISON = 0xff; // what new memory is full of: NaN in every type, and -1
constexpr unsigned char CANARY = 0xc5; // what is around it, where pages are not closed

// So many bytes, whole pages; none where there are none.
inline unsigned char* pages(size_t bytes) {
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return at == MAP_FAILED ? nullptr : static_cast<unsigned char*>(at);
}

// Makes pages such that touching them is a fault.
inline bool close(unsigned char* at, size_t bytes) { return mprotect(at, bytes, PROT_NONE) == 0; }

} // namespace shim
