// Runs kernels: the threads of a block are fibers that switch only where they wait for each other, in random order.
//
// Each fiber has its own stack, switched by switch_stack in a dozen instructions. A fiber that waits switches to a
// random fiber that is ready, and one that ends hands its stack to one that has not started; if none is ready, control
// returns to the launch, which ends the block or reports a deadlock. A fault in a kernel also becomes an error: the
// signal handler continues in resume_after_fault().

#include "pages.h"
#include "shim.h"
#include "switch.h"

#include <mutex>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <ucontext.h>
#include <unistd.h>
#include <utility>
#include <vector>

__thread uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace shim {

__thread unsigned char* shared_memory;

namespace {

constexpr size_t STACK = 64 << 10, MOST_THREADS = 1024;
constexpr size_t MOST_SHARED = 163 << 10; // of an A100; an H100 has more
constexpr size_t SHARED_PAGES = GUARD + (MOST_SHARED + 2 * PAGE) / PAGE * PAGE + GUARD;
constexpr size_t SIGNAL_STACK = 64 << 10;

// A meeting point of the lanes of a warp, one per mask.
struct Meeting {
    unsigned mask, arrived;
    unsigned turn; // index of the active room: the values in the other stay valid while lanes pass new ones
    const char *operation, *file;
    int line;
    size_t size;
    alignas(16) unsigned char rooms[2][32 * LARGEST];
};

// A pending copy to shared memory.
struct Copy {
    unsigned char* to;
    unsigned char bytes[16];
};

struct Fiber {
    void* at; // stack pointer while it waits, null before it starts
    unsigned char* top; // top of its stack
    std::vector<Copy> copies;
};

// The state of a running block. There is one per concurrent launch; they are reused.
struct Machine {
    Fiber fibers[MOST_THREADS];
    unsigned ready[MOST_THREADS];
    unsigned ready_count, threads, current, ended;
    unsigned char* free_stacks[MOST_THREADS]; // tops of unused stacks; the most recently used is last
    unsigned free_count;
    std::vector<std::pair<unsigned, Meeting*>> meetings[MOST_THREADS / 32]; // per warp, by mask
    unsigned waiting, turn; // threads in the barrier, and its active room for votes
    int votes[2];
    const char* barrier_file;
    int barrier_line;
    uint64_t random;
    void* launch; // its stack pointer while fibers run
    const Kernel* kernel;
    const void* arguments;
    unsigned char *stacks, *shared_pages, *signal_stack;
    bool failed;
    char message[768];
    uint64_t fault; // address, or 0
};

__thread Machine* machine;
__thread bool in_kernel;

uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

unsigned pick(Machine& m, unsigned count) {
    m.random ^= m.random << 13;
    m.random ^= m.random >> 7;
    m.random ^= m.random << 17;
    return (unsigned)(((m.random >> 32) * count) >> 32);
}

void run_threads();

// Top of a stack; staggered, so that stacks do not all share the same cache sets.
unsigned char* top_of(Machine& m, unsigned i) { return m.stacks + (i + 1) * (STACK + PAGE) - i % 37 * 64; }

// Makes a random ready fiber the current one.
Fiber& next_of(Machine& m) {
    unsigned i = pick(m, m.ready_count), next = m.ready[i];
    m.ready[i] = m.ready[--m.ready_count];
    m.current = next;
    threadIdx.x = next;
    return m.fibers[next];
}

// Switches to a ready fiber, or to the launch if there is none. `from`: where to save the current stack pointer.
void leave(Machine& m, void** from) {
    if (m.ready_count == 0) return shim_switch_stack(from, m.launch);
    Fiber& next = next_of(m);
    if (!next.at) {
        next.top = m.free_stacks[--m.free_count];
        next.at = prepare(next.top, run_threads);
    }
    shim_switch_stack(from, next.at);
}

void wait() {
    Machine& m = *machine;
    leave(m, &m.fibers[m.current].at);
}

// Runs the current thread on this stack, and then others, as long as the ones picked have not started yet.
void run_threads() {
    Machine& m = *machine;
    for (;;) {
        m.kernel->call(m.arguments);
        ++m.ended;
        unsigned char* top = m.fibers[m.current].top;
        void* gone;
        if (m.ready_count == 0) shim_switch_stack(&gone, m.launch);
        Fiber& next = next_of(m);
        if (next.at) {
            m.free_stacks[m.free_count++] = top;
            shim_switch_stack(&gone, next.at);
        }
        next.top = top;
        next.at = top; // it has started
    }
}

bool differ(const char* a, const char* b) { return a != b && strcmp(a, b) != 0; }

const char* base_name(const char* path) {
    const char* slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

Meeting* meeting_of(Machine& m, unsigned warp, unsigned mask) {
    for (auto& entry : m.meetings[warp])
        if (entry.first == mask) return entry.second;
    auto* meeting = static_cast<Meeting*>(aligned_alloc(16, sizeof(Meeting)));
    memset(meeting, 0, sizeof(Meeting) - sizeof(meeting->rooms));
    meeting->mask = mask;
    m.meetings[warp].push_back({mask, meeting});
    return meeting;
}

void report(Machine& m, const char* format, va_list arguments) {
    int n = snprintf(m.message, sizeof(m.message), "%s: block (%u, %u, %u), thread %u: ", m.kernel->name, blockIdx.x,
                     blockIdx.y, blockIdx.z, m.current);
    vsnprintf(m.message + n, sizeof(m.message) - n, format, arguments);
    m.failed = true;
}

// Reports who waits where, once no fiber is ready.
void report_deadlock(Machine& m) {
    size_t used = (size_t)snprintf(m.message, sizeof(m.message), "%s: block (%u, %u, %u): threads wait for each other: ",
                                   m.kernel->name, blockIdx.x, blockIdx.y, blockIdx.z);
    auto add = [&](const char* format, auto... values) {
        if (used < sizeof(m.message))
            used += (size_t)snprintf(m.message + used, sizeof(m.message) - used, format, values...);
    };
    if (m.waiting) add("%u of %u in the barrier of %s:%d; ", m.waiting, m.threads, base_name(m.barrier_file), m.barrier_line);
    unsigned shown = 0;
    for (unsigned warp = 0; warp < m.threads / 32; ++warp)
        for (auto& entry : m.meetings[warp]) {
            const Meeting& meeting = *entry.second;
            if (meeting.arrived == 0 || ++shown > 3) continue;
            add("lanes %08x of warp %u in %s of %s:%d, whose mask is %08x; ", meeting.arrived, warp, meeting.operation,
                base_name(meeting.file), meeting.line, meeting.mask);
        }
    if (shown > 3) add("%u more such; ", shown - 3);
    add("%u have ended", m.ended);
    m.failed = true;
}

// Faults.

struct sigaction before[64];

// Continues here on the stack of a thread that faulted.
void resume_after_fault() {
    void* gone;
    shim_switch_stack(&gone, machine->launch);
    __builtin_unreachable();
}

void on_signal(int number, siginfo_t* info, void* context) {
    if (!in_kernel) { // not a fault of a kernel
        struct sigaction& old = before[number];
        if (old.sa_flags & SA_SIGINFO) return old.sa_sigaction(number, info, context);
        if (old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN) return old.sa_handler(number);
        sigaction(number, &old, nullptr); // its effect occurs as soon as this returns
        return;
    }
    Machine& m = *machine;
    Fiber& fiber = m.fibers[m.current];
    auto* address = static_cast<unsigned char*>(info->si_addr);
    auto tell = [&m](const char* format, ...) {
        va_list arguments;
        va_start(arguments, format);
        report(m, format, arguments);
        va_end(arguments);
    };
    if (number == SIGFPE) {
        tell("divides an integer by zero");
    } else if (number == SIGILL) {
        tell("does what C++ leaves undefined, such as a division by zero, at %p", (void*)address);
    } else if (address >= m.stacks && address < m.stacks + MOST_THREADS * (STACK + PAGE)) {
        tell("its variables need more than %zu bytes", STACK);
    } else if (address >= m.shared_pages && address < m.shared_pages + SHARED_PAGES) {
        tell("reads or writes shared memory %td bytes after its start", address - shared_memory);
    } else {
        m.fault = (uint64_t)(uintptr_t)address;
        tell("reads or writes memory that it may not, at %p", (void*)address);
    }
    auto* state = static_cast<ucontext_t*>(context);
#if defined(__x86_64__)
    state->uc_mcontext.gregs[REG_RIP] = (greg_t)resume_after_fault;
    state->uc_mcontext.gregs[REG_RSP] = (greg_t)(fiber.top - 8);
#else
    state->uc_mcontext.pc = (uint64_t)resume_after_fault;
    state->uc_mcontext.sp = (uint64_t)fiber.top;
#endif
}

void install_handlers() {
    struct sigaction action = {};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) sigaction(number, &action, &before[number]);
}

// Machines.

std::mutex idle_lock;
std::vector<Machine*>& idle = *new std::vector<Machine*>; // never destroyed: threads may outlive main

Machine* take_machine() {
    static std::once_flag handlers;
    std::call_once(handlers, install_handlers);
    {
        std::lock_guard<std::mutex> hold(idle_lock);
        if (!idle.empty()) {
            Machine* m = idle.back();
            idle.pop_back();
            return m;
        }
    }
    auto* m = new Machine();
    m->stacks = pages(MOST_THREADS * (STACK + PAGE));
    m->shared_pages = pages(SHARED_PAGES);
    m->signal_stack = pages(SIGNAL_STACK);
    bool well = m->stacks && m->shared_pages && m->signal_stack && close(m->shared_pages, GUARD)
        && close(m->shared_pages + SHARED_PAGES - GUARD, GUARD);
    for (size_t i = 0; i < MOST_THREADS; ++i) {
        well = well && close(m->stacks + i * (STACK + PAGE), PAGE);
    }
    if (!well) {
        fputs("the emulation of CUDA gets no memory for the stacks of a block\n", stderr);
        abort();
    }
    return m;
}

void give_machine(Machine* m) {
    std::lock_guard<std::mutex> hold(idle_lock);
    idle.push_back(m);
}

// Shared memory, which ends at an inaccessible page except for the padding of its size to a multiple of 128.
struct SharedMemory {
    unsigned char *at, *end;
    size_t bytes;

    SharedMemory(Machine& m, size_t bytes) : bytes(bytes) {
        end = m.shared_pages + SHARED_PAGES - GUARD;
        at = end - (bytes + 127) / 128 * 128;
        memset(at - 128, CANARY, 128);
        memset(at + bytes, CANARY, (size_t)(end - at) - bytes);
    }
    void poison() { memset(at, POISON, bytes); }
    // Returns the index of a byte around the memory that was overwritten, relative to its start, or 0; byte 0 is never around it.
    long damage() const {
        for (unsigned char* p = at - 128; p < at; ++p) if (*p != CANARY) return p - at;
        for (unsigned char* p = at + bytes; p < end; ++p) if (*p != CANARY) return p - at;
        return 0;
    }
};

void run_block(Machine& m, SharedMemory& memory) {
    memory.poison();
    m.ready_count = m.threads;
    m.ended = m.waiting = m.turn = 0;
    m.votes[0] = m.votes[1] = 0;
    for (unsigned i = 0; i < m.threads; ++i) {
        Fiber& fiber = m.fibers[i];
        fiber.at = nullptr;
        fiber.copies.clear();
        m.free_stacks[i] = top_of(m, i);
        m.ready[i] = i;
    }
    m.free_count = m.threads;
    in_kernel = true;
    leave(m, &m.launch);
    in_kernel = false;
    if (!m.failed && m.ended < m.threads) report_deadlock(m);
    if (m.failed) {
        for (auto& warp : m.meetings)
            for (auto& entry : warp) entry.second->arrived = 0;
    } else if (long at = memory.damage()) {
        snprintf(m.message, sizeof(m.message), "%s: block (%u, %u, %u): writes byte %ld of %zu of its shared memory",
                 m.kernel->name, blockIdx.x, blockIdx.y, blockIdx.z, at, memory.bytes);
        m.failed = true;
    }
}

const Kernel* kernels;

const Kernel* kernel_of(const char* name) {
    for (const Kernel* kernel = kernels; kernel; kernel = kernel->next)
        if (strcmp(kernel->name, name) == 0) return kernel;
    return nullptr;
}

} // namespace

Registration::Registration(const char* name, int threads, size_t size, void (*call)(const void*))
    : kernel{name, threads, size, call, kernels} {
    kernels = &kernel;
}

void fail(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    report(*machine, format, arguments);
    va_end(arguments);
    resume_after_fault();
    __builtin_unreachable();
}

const void* meet(const char* operation, unsigned mask, const void* mine, size_t size, const char* file, int line,
                 void (*combine)(void*)) {
    Machine& m = *machine;
    unsigned self = m.current, lane = self % 32, first = self - lane;
    if (!(mask >> lane & 1))
        fail("%s:%d: lane %u calls %s with the mask %08x, which leaves it out", base_name(file), line, lane, operation, mask);
    if (size > LARGEST) fail("%s:%d: %s of %zu bytes, at most %zu", base_name(file), line, operation, size, LARGEST);
    Meeting& meeting = *meeting_of(m, self / 32, mask);
    if (meeting.arrived == 0) {
        meeting.operation = operation;
        meeting.file = file;
        meeting.line = line;
        meeting.size = size;
    } else if (meeting.line != line || meeting.size != size || differ(meeting.operation, operation) || differ(meeting.file, file)) {
        fail("lane %u is in %s of %s:%d (%zu bytes) while lanes %08x of its warp are in %s of %s:%d (%zu bytes)", lane,
             operation, base_name(file), line, size, meeting.arrived, meeting.operation, base_name(meeting.file),
             meeting.line, meeting.size);
    }
    unsigned char* room = meeting.rooms[meeting.turn];
    if (size == 4) memcpy(room + lane * 4, mine, 4); // same result, faster
    else if (size) memcpy(room + lane * size, mine, size);
    meeting.arrived |= 1u << lane;
    if (meeting.arrived == mask) {
        meeting.arrived = 0;
        meeting.turn ^= 1;
        if (combine) combine(room);
        for (unsigned others = mask & ~(1u << lane); others; others &= others - 1)
            m.ready[m.ready_count++] = first + (unsigned)__builtin_ctz(others);
    } else {
        wait();
    }
    return room;
}

void copy_later(void* to, const void* from) {
    if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % 16 != 0)
        fail("copies 16 bytes from %p to %p, expected multiples of 16", from, to);
    Copy copy = {static_cast<unsigned char*>(to), {}};
    if (from) memcpy(copy.bytes, from, 16);
    memset(to, POISON, 16);
    machine->fibers[machine->current].copies.push_back(copy);
}

void copies_arrive() {
    std::vector<Copy>& copies = machine->fibers[machine->current].copies;
    for (const Copy& copy : copies) memcpy(copy.to, copy.bytes, 16);
    copies.clear();
}

int barrier(int mine, const char* file, int line) {
    Machine& m = *machine;
    unsigned turn = m.turn;
    if (m.waiting == 0) {
        m.barrier_file = file;
        m.barrier_line = line;
        m.votes[turn] = 0;
    } else if (m.barrier_line != line || differ(m.barrier_file, file)) {
        fail("is in the barrier of %s:%d while %u others are in that of %s:%d", base_name(file), line, m.waiting,
             base_name(m.barrier_file), m.barrier_line);
    }
    m.votes[turn] += mine;
    if (++m.waiting == m.threads) {
        m.waiting = 0;
        m.turn ^= 1;
        for (unsigned i = 0; i < m.threads; ++i)
            if (i != m.current) m.ready[m.ready_count++] = i;
    } else {
        wait();
    }
    return m.votes[turn];
}

} // namespace shim

// Functions called by the driver.

using namespace shim;

struct Outcome {
    char message[sizeof(Machine::message)];
    uint64_t fault; // the address of an invalid access, or 0
};

// Runs a kernel to completion; returns whether it succeeded, and otherwise fills in `outcome`.
extern "C" bool emulation_launch(const char* name, const uint32_t blocks[3], uint32_t threads, size_t shared,
                                 const void* arguments, size_t bytes, uint64_t seed, Outcome* outcome) {
    outcome->fault = 0;
    auto refuse = [outcome](const char* format, auto... values) {
        snprintf(outcome->message, sizeof(outcome->message), format, values...);
        return false;
    };
    const Kernel* kernel = kernel_of(name);
    if (!kernel) return refuse("there is no kernel %s", name);
    if (bytes != kernel->size)
        return refuse("%s: the arguments have %zu bytes, expected %zu", name, bytes, kernel->size);
    if (threads == 0 || threads % 32 != 0 || threads > (uint32_t)kernel->threads || threads > MOST_THREADS)
        return refuse("%s: %u threads, expected a multiple of 32, at most %d", name, threads, kernel->threads);
    if (shared > MOST_SHARED) return refuse("%s: %zu bytes of shared memory, expected at most %zu", name, shared, MOST_SHARED);
    if (!blocks[0] || !blocks[1] || !blocks[2] || blocks[0] > 0x7fffffffu || blocks[1] > 0xffff || blocks[2] > 0xffff)
        return refuse("%s: (%u, %u, %u) blocks, expected at least 1 of each and at most 2^31 - 1, 65535, 65535", name,
                      blocks[0], blocks[1], blocks[2]);

    Machine& m = *take_machine();
    stack_t signals = {}, ours = {};
    sigaltstack(nullptr, &signals);
    if (signals.ss_flags & SS_DISABLE) {
        ours.ss_sp = m.signal_stack;
        ours.ss_size = SIGNAL_STACK;
        sigaltstack(&ours, nullptr);
    }
    SharedMemory memory(m, shared);
    machine = &m;
    shared_memory = memory.at;
    m.kernel = kernel;
    m.arguments = arguments;
    m.threads = threads;
    m.random = mix(seed + 0x9e3779b97f4a7c15ull) | 1;
    m.failed = false;
    m.fault = 0;
    blockDim = {threads, 1, 1};
    gridDim = {blocks[0], blocks[1], blocks[2]};
    threadIdx = {0, 0, 0};
    size_t count = (size_t)blocks[0] * blocks[1] * blocks[2];
    std::vector<uint32_t> order(count);
    for (size_t i = 0; i < count; ++i) { // random order of blocks
        size_t j = pick(m, (unsigned)i + 1);
        order[i] = order[j];
        order[j] = (uint32_t)i;
    }
    for (size_t i = 0; i < count && !m.failed; ++i) {
        uint32_t block = order[i];
        blockIdx = {block % blocks[0], block / blocks[0] % blocks[1], block / blocks[0] / blocks[1]};
        run_block(m, memory);
    }
    bool well = !m.failed;
    if (!well) {
        memcpy(outcome->message, m.message, sizeof(m.message));
        outcome->fault = m.fault;
    }
    machine = nullptr;
    if (signals.ss_flags & SS_DISABLE) sigaltstack(&signals, nullptr);
    give_machine(&m);
    return well;
}
