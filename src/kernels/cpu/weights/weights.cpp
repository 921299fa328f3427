#include "kernels/cpu/cpu.h"
#include "kernels/reference/reference.h"

namespace atlas::kernels::cpu {

void quantise_activations(const ActivationArgs& args, int64_t begin, int64_t end) {
    reference::quantise_activations(args, begin, end);
}

void multiply_weights(const WeightProduct& product, int64_t begin, int64_t end) {
    reference::multiply_weights(product, begin, end);
}

}  // namespace atlas::kernels::cpu
