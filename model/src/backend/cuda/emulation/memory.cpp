// Global memory. Each allocation ends at an inaccessible page, except for the padding of its size to a multiple of 256.

#include "pages.h"

#include <stdint.h>
#include <string.h>

using namespace shim;

static size_t up_to(size_t bytes, size_t multiple) { return (bytes + multiple - 1) / multiple * multiple; }

static unsigned char* first_page(unsigned char* at) {
    return reinterpret_cast<unsigned char*>(reinterpret_cast<uintptr_t>(at) / PAGE * PAGE);
}

// Returns the address of that many bytes of NaN, aligned to 256, or 0 if there is no memory.
extern "C" uint64_t emulation_allocate(size_t bytes) {
    size_t room = up_to(bytes, PAGE);
    unsigned char* start = pages(room + 2 * GUARD);
    if (!start) return 0;
    unsigned char* end = start + GUARD + room;
    if (!close(start, GUARD) || !close(end, GUARD)) {
        munmap(start, room + 2 * GUARD);
        return 0;
    }
    unsigned char* at = end - up_to(bytes, 256);
    memset(start + GUARD, CANARY, room);
    memset(at, POISON, bytes);
    return (uint64_t)(uintptr_t)at;
}

extern "C" void emulation_free(uint64_t address, size_t bytes) {
    auto* end = reinterpret_cast<unsigned char*>(address) + up_to(bytes, 256);
    size_t room = up_to(bytes, PAGE);
    munmap(end - room - GUARD, room + 2 * GUARD);
}

// Returns the index of a byte around an allocation that was overwritten, relative to its start, or 0; byte 0 is never around it.
extern "C" long emulation_damage(uint64_t address, size_t bytes) {
    auto* at = reinterpret_cast<unsigned char*>(address);
    unsigned char* before = first_page(at) < at - 256 ? at - 256 : first_page(at);
    for (unsigned char* p = before; p < at; ++p) if (*p != CANARY) return p - at;
    for (unsigned char* p = at + bytes; p < at + up_to(bytes, 256); ++p) if (*p != CANARY) return p - at;
    return 0;
}
