// Handlers that g++ (-fsanitize) calls on undefined behavior of a kernel: they end the launch with an error.
//
// A GPU does not check either, except for wide accesses, whose addresses must be multiples of their size. The handlers
// have the names and arguments of those in libubsan, which is not linked.

#include "shim.h"

namespace {

struct Place {
    const char* file;
    uint32_t line, column;
};

struct Access { // to an object in memory
    Place place;
    const void* type;
    unsigned char log_alignment, kind;
};

[[noreturn]] void undefined(const Place& place, const char* what) {
    const char* slash = strrchr(place.file, '/');
    shim::fail("%s:%u: %s", slash ? slash + 1 : place.file, place.line, what);
}

} // namespace

extern "C" {

void __ubsan_handle_type_mismatch_v1(const Access* access, uintptr_t at) {
    const char* slash = strrchr(access->place.file, '/');
    shim::fail("%s:%u: reads or writes at %#zx, expected a multiple of %d", slash ? slash + 1 : access->place.file,
               access->place.line, (size_t)at, 1 << access->log_alignment);
}
void __ubsan_handle_out_of_bounds(const Place* place, uintptr_t) { undefined(*place, "an index is out of its array"); }
void __ubsan_handle_shift_out_of_bounds(const Place* place, uintptr_t, uintptr_t) { undefined(*place, "shifts by more bits than there are"); }
void __ubsan_handle_divrem_overflow(const Place* place, uintptr_t, uintptr_t) { undefined(*place, "divides an integer by zero"); }
void __ubsan_handle_add_overflow(const Place* place, uintptr_t, uintptr_t) { undefined(*place, "an integer sum overflows"); }
void __ubsan_handle_sub_overflow(const Place* place, uintptr_t, uintptr_t) { undefined(*place, "an integer difference overflows"); }
void __ubsan_handle_mul_overflow(const Place* place, uintptr_t, uintptr_t) { undefined(*place, "an integer product overflows"); }
void __ubsan_handle_negate_overflow(const Place* place, uintptr_t) { undefined(*place, "an integer overflows"); }
void __ubsan_handle_missing_return(const Place* place) { undefined(*place, "a function ends without a result"); }
}
