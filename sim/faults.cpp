// The harness of a Verilated accelerator whose memories and registers can be changed from outside, for tests of soft
// errors.

#include "harness.cpp"

#include <cstdio>
#include <string>

#include "verilated_syms.h"

// Returns the memories and registers of the accelerator that this thread has created last, a line each: name, address,
// rows, bytes of a row, bits of a row. Verilator knows those that are declared public.
HWQ_EXPORT const char *hwq_storage() {
    static thread_local std::string lines;
    lines.clear();
    for (const auto &[scope, found] : *Verilated::threadContextp()->scopeNameMap()) {
        if (!found->varsp()) continue;
        for (const auto &[name, variable] : *found->varsp()) {
            if (variable.udims() > 1) continue;
            char line[64];
            std::snprintf(line, sizeof line, " %llu %d %u %u\n",
                          static_cast<unsigned long long>(reinterpret_cast<uintptr_t>(variable.datap())),
                          variable.udims() ? variable.elements(1) : 1, variable.entSize(), variable.entBits());
            lines += std::string{scope} + "." + name + line;
        }
    }
    return lines.c_str();
}
