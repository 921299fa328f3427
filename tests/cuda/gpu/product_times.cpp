#include "product_times.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/cuda/products.h"
#include "measure.h"

namespace atlas::kernels::cuda {

void measure_product(Device& device, const ProductShape& shape, int repetitions) {
    ProductArguments a{};
    (void)product_type_of(shape.type, &a.type);
    const WeightTypeInfo& info = weight_type_info(shape.type);
    const size_t row = (weight_row_bytes(shape.type, shape.cols) + 15) / 16 * 16;
    std::vector<uint8_t> weights(static_cast<size_t>(shape.rows) * row);
    std::mt19937 random(1);
    // A long piece of random bytes, over and over; its length is no multiple of a block's.
    for (size_t i = 0; i < weights.size(); ++i)
        weights[i] = i < 65521 ? static_cast<uint8_t>(random()) : weights[i - 65521];
    const uint16_t scale = 0x2400;  // 1/64: no scale is NaN or infinite
    for (size_t r = 0; r < static_cast<size_t>(shape.rows); ++r) {
        for (size_t at = 0; at + static_cast<size_t>(info.block_bytes) <= row;
             at += static_cast<size_t>(info.block_bytes)) {
            uint8_t* block = weights.data() + r * row + at;
            std::memcpy(block + (shape.type == WeightType::kQ6_K ? 208 : 0), &scale, 2);
            if (shape.type == WeightType::kQ4_K || shape.type == WeightType::kQ5_K || shape.type == WeightType::kQ5_1)
                std::memcpy(block + 2, &scale, 2);
        }
    }
    const std::vector<int8_t> codes(static_cast<size_t>(shape.columns) * static_cast<size_t>(shape.cols), 3);
    const std::vector<ActivationPart> parts(codes.size() / 32, {0.01f, 0.96f, 48u | 48u << 16});
    const Buffer weight_buffer = upload(device, weights);
    const Buffer code_buffer = upload(device, codes);
    const Buffer part_buffer = upload(device, parts);
    Buffer out;
    const size_t outputs = static_cast<size_t>(shape.rows) * static_cast<size_t>(shape.columns);
    need(device.allocate(outputs * sizeof(float), &out));
    a.weights = weight_buffer.as<unsigned char>();
    a.row_stride = static_cast<int64_t>(row);
    a.codes = code_buffer.as<int8_t>();
    a.parts = part_buffer.as<ActivationPart>();
    a.out = out.as<float>();
    a.out_stride = a.rows = shape.rows;
    a.cols = shape.cols;
    a.columns = shape.columns;
    const std::vector<double> times = times_of(device, repetitions, [&] { need(multiply(device, a)); });
    std::vector<float> result(outputs);
    need(device.download(result.data(), out, outputs * sizeof(float)));
    need(device.wait());
    // Each four columns are a pass over the weights.
    const double passes = (shape.columns + 3) / 4;
    print(shape.name, shape.columns == 1 ? "multiply_1" : "multiply_4", 1, passes * static_cast<double>(weights.size()),
          2.0 * shape.rows * static_cast<double>(shape.cols) * shape.columns, times, all_finite(result));
}

}  // namespace atlas::kernels::cuda
