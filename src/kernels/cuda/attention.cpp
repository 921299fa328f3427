#include "kernels/cuda/attention.h"

#include <cstring>
#include <vector>

#include "kernels/cuda/packed.h"
#include "kernels/cuda/uploads.h"

namespace atlas::kernels::cuda {
namespace {

/** Shapes and strides of `args`; pointers are the caller's to fill. */
AttentionArguments shapes_of(const AttentionArgs& args, const PackedAttention& packed, const AttentionPlan& plan) {
    AttentionArguments a{};
    a.q_head_stride = args.d_k;
    a.q_token_stride = args.d_k * args.n_head;
    a.q_stream_stride = a.q_token_stride * args.n_tokens;
    a.out_head_stride = args.d_v;
    a.out_token_stride = args.d_v * args.n_head;
    a.out_stream_stride = a.out_token_stride * args.n_tokens;
    a.mask_token_stride = args.mask.token_stride;
    a.mask_head_stride = args.mask.head_stride;
    a.mask_stream_stride = args.mask.stream_stride;
    a.mask_heads = static_cast<int32_t>(args.mask.n_heads);
    a.mask_streams = static_cast<int32_t>(args.mask.n_streams);
    a.k_stride = packed.k_stride;
    a.v_stride = packed.v_stride;
    (void)row_type_of(args.k_type, &a.k_type);
    (void)row_type_of(args.v_type, &a.v_type);
    a.d_k = static_cast<int32_t>(args.d_k);
    a.d_v = static_cast<int32_t>(args.d_v);
    a.n_tokens = static_cast<int32_t>(args.n_tokens);
    a.n_head = static_cast<int32_t>(args.n_head);
    a.n_head_kv = static_cast<int32_t>(args.n_head_kv);
    a.n_stream = static_cast<int32_t>(args.n_stream);
    a.tile_tokens = static_cast<int32_t>(packed.tile_tokens);
    a.tiles = static_cast<int32_t>(packed.tiles);
    a.splits = plan.splits;
    a.scale = args.scale;
    a.softcap = args.softcap;
    return a;
}

void copy_out(const AttentionArgs& args, const std::vector<float>& out) {
    const float* from = out.data();
    for (int64_t stream = 0; stream < args.n_stream; ++stream) {
        for (int64_t token = 0; token < args.n_tokens; ++token) {
            for (int64_t head = 0; head < args.n_head; ++head, from += args.d_v) {
                std::byte* to = reinterpret_cast<std::byte*>(args.out) + stream * args.out_stream_stride +
                                token * args.out_token_stride + head * args.out_head_stride;
                std::memcpy(to, from, static_cast<size_t>(args.d_v) * sizeof(float));
            }
        }
    }
}

}  // namespace

Status attention(Device& device, const AttentionArgs& args, const AttentionTuning& tuning) {
    if (Status status = cuda::check_attention(args); !status.is_ok()) return status;
    const auto rows = static_cast<size_t>(args.n_stream * args.n_tokens * args.n_head);
    if (rows == 0) return Status::ok();
    PackedAttention packed(args);
    const auto lists = static_cast<int64_t>(packed.lists.size());
    const AttentionPlan plan = plan_attention(args, lists, packed.tile_tokens * (args.n_head / args.n_head_kv),
                                              packed.longest_list, device.multiprocessors(), tuning);
    AttentionArguments a = shapes_of(args, packed, plan);
    std::vector<float> out(rows * static_cast<size_t>(args.d_v));

    Uploads uploads(device);
    const uint64_t out_address = uploads.add(nullptr, out.size() * sizeof(float));
    const uint64_t lse_address = uploads.add(nullptr, rows * sizeof(float));
    a.out = reinterpret_cast<float*>(out_address);
    a.lse = reinterpret_cast<float*>(lse_address);
    packed.relocate(uploads.add(packed.rows.data(), packed.rows.size()));
    a.pages = uploads.add(packed.pages);
    a.lists = uploads.add(packed.lists);
    a.q = uploads.add(packed.q);
    a.slopes = uploads.add(packed.slopes);
    if (packed.mask_elements > 0) {
        a.mask = reinterpret_cast<const uint16_t*>(
            uploads.add(args.mask.data, static_cast<size_t>(packed.mask_elements) * sizeof(uint16_t)));
    }
    if (args.sinks) {
        a.sinks =
            reinterpret_cast<const float*>(uploads.add(args.sinks, static_cast<size_t>(args.n_head) * sizeof(float)));
    }
    if (plan.splits > 1) {
        const size_t part = static_cast<size_t>(args.d_v + 2) * sizeof(float);
        a.partial = reinterpret_cast<float*>(uploads.add(nullptr, rows * static_cast<size_t>(plan.splits) * part));
        a.tickets = reinterpret_cast<unsigned*>(
            uploads.add(nullptr, static_cast<size_t>(lists * plan.row_blocks) * sizeof(unsigned)));
        if (uploads.status().is_ok()) uploads.fail(device.clear(uploads.last()));
    }
    if (!uploads.status().is_ok()) return uploads.status();

    Status status = device.launch(plan.kernel, static_cast<uint32_t>(lists * plan.row_blocks),
                                  static_cast<uint32_t>(plan.splits), &a);
    if (status.is_ok()) status = device.download(out.data(), uploads.at(0), out.size() * sizeof(float));
    if (status.is_ok() && args.lse) status = device.download(args.lse, uploads.at(1), rows * sizeof(float));
    if (Status waited = uploads.wait(); status.is_ok()) status = waited;
    if (status.is_ok()) copy_out(args, out);
    return status;
}

}  // namespace atlas::kernels::cuda
