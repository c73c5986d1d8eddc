// Native test harness of a Verilated accelerator: the loops over clock cycles, behind a C interface for ctypes.
//
// The model is driven through the pins of harness.v only: clk, rst, the bus of rtl/bus.py and irq. A cycle is everything from one
// rising edge of clk to the next; inputs change between two rising edges, outputs are read after one.

#include <cstdint>

#include "Vtop.h"
#include "verilated.h"

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

    // Transfers words at consecutive addresses; returns how many were acknowledged.
    template <typename Word, typename Done> int64_t transfer(uint32_t address, Word *words, int64_t count, Done done) {
        top_.cyc = 1;
        top_.stb = 1;
        top_.sel = 0xF;
        int64_t index = 0;
        for (; index < count; ++index) {
            top_.adr = (address >> 2) + static_cast<uint32_t>(index);
            done(words[index], false);
            int wait = 0;
            do tick();
            while (!top_.ack && ++wait < ACK_LIMIT_CYCLES);
            if (!top_.ack) break;
            done(words[index], true);
            tick();  // The request is held through the cycle of ack.
        }
        idle();
        return index;
    }

    int64_t write(uint32_t address, const uint32_t *words, int64_t count) {
        top_.we = 1;
        return transfer(address, words, count, [this](const uint32_t &word, bool acknowledged) {
            if (!acknowledged) top_.dat_w = word;
        });
    }

    int64_t read(uint32_t address, uint32_t *words, int64_t count) {
        top_.we = 0;
        return transfer(address, words, count, [this](uint32_t &word, bool acknowledged) {
            if (acknowledged) word = top_.dat_r;
        });
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

  private:
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
