// Native test harness of an accelerator behind its serial port: the host's UART, bit by bit, behind a C interface for
// ctypes. Only clk, rst, rx and tx of pins.v are used.

#include <cstdint>
#include <deque>

#include "Vtop.h"
#include "verilated.h"

namespace {

constexpr int RESET_CYCLES = 4;

class Pins {
  public:
    explicit Pins(double cycles_per_bit) : top_{&context_, "top"}, bit_{cycles_per_bit} {
        top_.rx = 1;
        top_.rst = 1;
        for (int cycle = 0; cycle < RESET_CYCLES; ++cycle) tick();
        top_.rst = 0;
    }
    ~Pins() { top_.final(); }

    void send(const uint8_t *bytes, int64_t count) { to_send_.insert(to_send_.end(), bytes, bytes + count); }

    // Runs until all is sent and bytes have come, one after another without a pause of two bytes; at most max_cycles.
    // Returns how many of them are in `bytes`.
    int64_t receive(uint8_t *bytes, int64_t size, int64_t max_cycles) {
        int64_t got = 0, quiet = 0;
        for (int64_t cycle = 0; cycle < max_cycles && got < size; ++cycle) {
            if (to_send_.empty() && sending_ == 0 && got && receiving_ < 0 && quiet > 20 * bit_) break;
            drive();
            tick();
            ++quiet;
            if (sample()) {
                bytes[got++] = received_;
                quiet = 0;
            }
        }
        return got;
    }

    uint64_t cycles() const { return cycles_; }

  private:
    // The host's transmitter: a start bit, eight bits from the lowest, a stop bit, each until its end in real time.
    void drive() {
        if (sending_ == 0) {
            if (to_send_.empty()) return;
            frame_ = 0x200u | static_cast<unsigned>(to_send_.front()) << 1;
            to_send_.pop_front();
            sending_ = 10;
            bit_end_ = bit_;
            top_.rx = 0;
            elapsed_ = 0;
        }
        if (elapsed_ >= bit_end_) {
            bit_end_ += bit_;
            if (--sending_ == 0) {
                elapsed_ = 0;
                return drive();
            }
            frame_ >>= 1;
            top_.rx = frame_ & 1;
        }
        ++elapsed_;
    }

    // The host's receiver: the middle of each bit. True when a byte with its stop bit is complete.
    bool sample() {
        if (receiving_ < 0) {
            if (top_.tx) return false;
            receiving_ = 0;
            next_sample_ = 1.5 * bit_;
            since_start_ = 0;
            received_ = 0;
            return false;
        }
        if (++since_start_ < next_sample_) return false;
        next_sample_ += bit_;
        if (receiving_ == 8) {
            receiving_ = -1;
            return top_.tx;
        }
        received_ |= static_cast<uint8_t>(top_.tx << receiving_++);
        return false;
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
    double bit_, bit_end_ = 0, next_sample_ = 0;
    std::deque<uint8_t> to_send_;
    unsigned frame_ = 0;
    int sending_ = 0, receiving_ = -1;
    int64_t elapsed_ = 0, since_start_ = 0;
    uint8_t received_ = 0;
    uint64_t cycles_ = 0;
};

}  // namespace

#define HWQ_EXPORT extern "C" __attribute__((visibility("default")))

HWQ_EXPORT Pins *hwq_pins_create(double cycles_per_bit) { return new Pins(cycles_per_bit); }
HWQ_EXPORT void hwq_pins_destroy(Pins *pins) { delete pins; }
HWQ_EXPORT void hwq_pins_send(Pins *pins, const uint8_t *bytes, int64_t count) { pins->send(bytes, count); }
HWQ_EXPORT int64_t hwq_pins_receive(Pins *pins, uint8_t *bytes, int64_t size, int64_t max_cycles) {
    return pins->receive(bytes, size, max_cycles);
}
HWQ_EXPORT uint64_t hwq_pins_cycles(Pins *pins) { return pins->cycles(); }
