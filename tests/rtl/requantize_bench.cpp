// Streams vectors through the Verilated requantizer: requantize_bench VECTORS RESULTS LATENCY
//
// VECTORS is an array of the records below, RESULTS receives one int8 for each. A new vector enters on every cycle; only where the
// descriptor's constants change does the pipeline drain first, because they aren't delayed with the accumulators.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "Vrequantizer.h"
#include "verilated.h"

struct Vector {
    int32_t acc;
    int32_t bias;
    uint32_t mantissa;
    uint8_t shift;
    int8_t zero_point;
    int8_t lo;
    int8_t hi;
    uint8_t truncate;
    uint8_t offset_high;
};
static_assert(sizeof(Vector) == 20, "the Python side writes 20 bytes a record");

static void clock(Vrequantizer &top) {
    top.clk = 1;
    top.eval();
    top.clk = 0;
    top.eval();
}

int main(int argc, char **argv) {
    if (argc != 4) {
        std::fprintf(stderr, "usage: requantize_bench VECTORS RESULTS LATENCY\n");
        return 2;
    }
    FILE *vectors = std::fopen(argv[1], "rb");
    FILE *results = std::fopen(argv[2], "wb");
    const int latency = std::atoi(argv[3]);
    if (!vectors || !results || latency < 1) {
        std::fprintf(stderr, "requantize_bench: bad file or latency\n");
        return 2;
    }

    auto context = std::make_unique<VerilatedContext>();
    auto top = std::make_unique<Vrequantizer>(context.get());
    top->clk = 0;
    top->rst = 0;
    top->eval();

    std::vector<int8_t> out;
    int in_flight = 0;  // vectors taken whose result is still to come
    int age = 0;        // cycles since the pipeline was last empty, up to the latency
    auto cycle = [&](bool takes) {
        clock(*top);
        in_flight += takes;
        if (age < latency) age++;
        if (age == latency && in_flight > 0) {
            out.push_back(static_cast<int8_t>(top->o));
            in_flight--;
        }
    };
    auto drain = [&] {
        while (in_flight > 0) cycle(false);
        age = 0;
    };

    std::vector<Vector> block(1 << 16);
    Vector last{};
    bool first = true;
    while (size_t count = std::fread(block.data(), sizeof(Vector), block.size(), vectors)) {
        for (size_t n = 0; n < count; n++) {
            const Vector &v = block[n];
            if (first || v.zero_point != last.zero_point || v.lo != last.lo || v.hi != last.hi ||
                v.truncate != last.truncate) {
                drain();
                top->i_zero_point = static_cast<uint8_t>(v.zero_point);
                top->i_lo = static_cast<uint8_t>(v.lo);
                top->i_hi = static_cast<uint8_t>(v.hi);
                top->i_truncate = v.truncate;
                clock(*top);  // the cycle in which the bounds less the zero point are taken
                first = false;
            }
            last = v;
            top->i_acc = static_cast<uint32_t>(v.acc);
            top->i_bias = static_cast<uint32_t>(v.bias);
            top->i_offset_high = v.offset_high;
            top->i_mantissa = v.mantissa;
            top->i_shift = v.shift;
            cycle(true);
        }
        std::fwrite(out.data(), 1, out.size(), results);
        out.clear();
    }
    drain();
    std::fwrite(out.data(), 1, out.size(), results);
    const bool failed = std::ferror(vectors) || std::ferror(results);
    std::fclose(vectors);
    return std::fclose(results) != 0 || failed;
}
