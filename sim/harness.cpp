// Native test harness of a Verilated accelerator: the loops over clock cycles, behind a C interface for ctypes.
//
// The model is driven through the pins of harness.v only: clk, rst, the bus of rtl/bus.py and irq. A cycle is
// everything from one rising edge of clk to the next; inputs change between two rising edges, outputs are read after
// one.

#include <cstdint>

#include "Vtop.h"
#include "verilated.h"
#if VM_COVERAGE
#include "verilated_cov.h"
#endif

namespace {

constexpr int RESET_CYCLES = 4;
constexpr int ACK_LIMIT_CYCLES = 4096;  // A transfer that takes longer than this never ends.

class Harness {
  public:
    Harness() : top_{&context_, "top"} { reset(); }
    ~Harness() { top_.final(); }

    void reset() {
        idle();
        top_.rst = 1;
        for (int cycle = 0; cycle < RESET_CYCLES; ++cycle) tick();
        top_.rst = 0;
        tick();
        cycles_ = 0;
    }

    // Both return how many words at consecutive addresses were acknowledged.
    int64_t write(uint32_t address, const uint32_t *words, int64_t count) {
        int64_t done = 0;
        while (done < count) {
            top_.dat_w = words[done];
            if (!request(address, done, true)) break;
            ++done;
            tick();
        }
        idle();
        return done;
    }

    int64_t read(uint32_t address, uint32_t *words, int64_t count) {
        int64_t done = 0;
        while (done < count) {
            if (!request(address, done, false)) break;
            words[done++] = top_.dat_r;
            tick();
        }
        idle();
        return done;
    }

    // Returns the cycles until irq was high, or -1 when it wasn't within the limit.
    int64_t wait(int64_t max_cycles) {
        int64_t waited = 0;
        while (!top_.irq) {
            if (waited == max_cycles) return -1;
            tick();
            ++waited;
        }
        return waited;
    }

    uint64_t cycles() const { return cycles_; }

#if VM_COVERAGE
    void coverage(const char *path) { context_.coveragep()->write(path); }
#endif

  private:
    // Requests the word at index and runs into the cycle of ack, in which dat_r is valid; the caller ends that cycle
    // with everything still held. False when there was no ack.
    bool request(uint32_t address, int64_t index, bool write) {
        top_.cyc = 1;
        top_.stb = 1;
        top_.sel = 0xF;
        top_.we = write;
        top_.adr = (address >> 2) + static_cast<uint32_t>(index);
        for (int wait = 0; wait < ACK_LIMIT_CYCLES; ++wait) {
            tick();
            if (top_.ack) return true;
        }
        return false;
    }

    void idle() {
        top_.cyc = 0;
        top_.stb = 0;
        top_.we = 0;
    }

    void tick() {
        top_.clk = 1;
        top_.eval();
        top_.clk = 0;
        top_.eval();
        ++cycles_;
    }

    VerilatedContext context_;
    Vtop top_;
    uint64_t cycles_ = 0;
};

}  // namespace

#define HWQ_EXPORT extern "C" __attribute__((visibility("default")))

HWQ_EXPORT Harness *hwq_create() { return new Harness; }
HWQ_EXPORT void hwq_destroy(Harness *harness) { delete harness; }
HWQ_EXPORT void hwq_reset(Harness *harness) { harness->reset(); }

HWQ_EXPORT int64_t hwq_write(Harness *harness, uint32_t address, const uint32_t *words, int64_t count) {
    return harness->write(address, words, count);
}

HWQ_EXPORT int64_t hwq_read(Harness *harness, uint32_t address, uint32_t *words, int64_t count) {
    return harness->read(address, words, count);
}

HWQ_EXPORT int64_t hwq_wait(Harness *harness, int64_t max_cycles) { return harness->wait(max_cycles); }
HWQ_EXPORT uint64_t hwq_cycles(Harness *harness) { return harness->cycles(); }

#if VM_COVERAGE
HWQ_EXPORT void hwq_coverage(Harness *harness, const char *path) { harness->coverage(path); }
#endif
