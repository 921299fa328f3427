#include "attention/plan/runs.h"

#include <algorithm>
#include <bit>

#include "kernels/row_codec.h"

namespace atlas::attention {
namespace {

constexpr int64_t kKeys = kernels::kBlockKeys;

void append_run(const AttentionCall& call, const kernels::Run& part, std::vector<kernels::Run>* out) {
    if (!out->empty() && !out->back().has_gaps() && out->back().key + out->back().count == part.key &&
        call.k.cell(out->back().k, out->back().count) == part.k &&
        call.v.cell(out->back().v, out->back().count) == part.v) {
        out->back().count += part.count;
    } else {
        out->push_back(part);
    }
}

}  // namespace

Status PinnedCells::pin(const AttentionCall& call, std::span<const kv::PageRange> pages, kv::PinMode mode) {
    const kv::PageTable::PinRequest requests[] = {{call.k.pages, pages, &k_}, {call.v.pages, pages, &v_}};
    return kv::PageTable::pin(requests, mode);
}

void PinnedCells::append(const AttentionCall& call, int64_t stream, const KeyRange& keys,
                         std::vector<kernels::Run>* out) const {
    const int64_t base = call.base_page(stream);
    for (int64_t key = keys.key; key < keys.key + keys.count;) {
        const int64_t inside = key % kKeys;
        const int64_t count = std::min(kKeys - inside, keys.key + keys.count - key);
        append_run(call,
                   {call.k.cell(k_.page(base + key / kKeys), inside), call.v.cell(v_.page(base + key / kKeys), inside),
                    static_cast<int32_t>(key), static_cast<int32_t>(count)},
                   out);
        key += count;
    }
}

void PinnedCells::append(const AttentionCall& call, int64_t stream, const PageCells& cells,
                         std::vector<kernels::Run>* out) const {
    const int64_t page = call.base_page(stream) + cells.key / kKeys;
    out->push_back(
        {k_.page(page), v_.page(page), static_cast<int32_t>(cells.key), std::popcount(cells.cells), cells.cells});
}

void PinnedCells::decode(const AttentionCall& call, int64_t stream, int64_t page, int64_t head, float* k,
                         float* v) const {
    const kernels::AttentionArgs& args = call.args;
    const int64_t number = call.base_page(stream) + page;
    if (k)
        kernels::decode_rows(args.k_type, args.k_decode, k_.page(number) + call.k.in_cell(head), call.k.key_stride,
                             kKeys, args.d_k, k);
    if (v)
        kernels::decode_rows(args.v_type, args.v_decode, v_.page(number) + call.v.in_cell(head), call.v.key_stride,
                             kKeys, args.d_v, v);
}

kv::KeyRows::Source PinnedCells::k_rows(const AttentionCall& call, int64_t page) const {
    return {k_.page(page) + call.k.in_cell(0), call.k.head_stride, call.k.key_stride};
}

kv::KeyRows::Source PinnedCells::v_rows(const AttentionCall& call, int64_t page) const {
    return {v_.page(page) + call.v.in_cell(0), call.v.head_stride, call.v.key_stride};
}

kernels::HeadRuns list_of(const AttentionCall& call, int64_t head, std::span<const kernels::Run> runs) {
    return {runs, call.k.in_cell(head), call.v.in_cell(head)};
}

std::span<const kv::PageRange> PageSet::ranges() {
    ranges_.clear();
    for (size_t word = 0; word < words_.size(); ++word) {
        for_each_range({static_cast<int64_t>(word) * 64, words_[word]}, [&](int64_t page, int64_t count) {
            if (!ranges_.empty() && ranges_.back().first + ranges_.back().count == page) {
                ranges_.back().count += count;
            } else {
                ranges_.push_back({page, count});
            }
        });
    }
    return ranges_;
}

Status AllKeys::find(const AttentionCall& call, const kernels::HeadRuns** lists) {
    if (Status status = pin_all(call); !status.is_ok()) return status;
    Lists* found = &other_;
    if (call.in_cells()) {
        found = &kept_[{call.k.pages->id(), call.v.pages->id()}];
        mend(call, found);
    } else {
        build(call, found);
    }
    *lists = found->heads.data();
    return Status::ok();
}

/** Pages that hold the call's keys, all heads of them. */
Status AllKeys::pin_all(const AttentionCall& call) {
    unpin();
    kv::PageTable::PinRequest requests[2];
    size_t n = 0;
    if (call.k.pages) {
        add_pages(call, call.k, &k_pages_);
        requests[n++] = {call.k.pages, k_pages_.ranges(), &k_};
    }
    if (call.v.pages) {
        add_pages(call, call.v, &v_pages_);
        requests[n++] = {call.v.pages, v_pages_.ranges(), &v_};
    }
    return kv::PageTable::pin({requests, n}, kv::PinMode::kThrough);
}

void AllKeys::add_pages(const AttentionCall& call, const KvRows& rows, PageSet* pages) const {
    const auto page = static_cast<int64_t>(rows.pages->page_bytes());
    // Cell by cell, other heads lie in the same pages.
    const int64_t heads = call.in_cells() ? 1 : call.args.n_head_kv;
    pages->clear();
    for (int64_t stream = 0; stream < call.args.n_stream; ++stream) {
        for (int64_t head = 0; head < heads; ++head) {
            const int64_t first = rows.in_table(stream, head, 0);
            const int64_t last = rows.in_table(stream, head, call.n_keys - 1) + rows.row_bytes - 1;
            pages->add(first / page, last / page - first / page + 1);
        }
    }
}

void AllKeys::mend(const AttentionCall& call, Lists* lists) const {
    const kernels::AttentionArgs& args = call.args;
    const int64_t pages = (call.n_keys + kKeys - 1) / kKeys;
    const int64_t stream_pages = args.n_stream > 1 ? call.base_page(1) - call.base_page(0) : 0;
    const bool known = lists->n_keys == call.n_keys && lists->n_streams == args.n_stream &&
                       lists->first_page == call.base_page(0) && lists->stream_pages == stream_pages &&
                       lists->heads.size() == static_cast<size_t>(args.n_stream * args.n_head_kv) &&
                       lists->k_inside == call.k.in_cell(0) && lists->v_inside == call.v.in_cell(0);
    if (!known) {
        lists->heads.clear();
        lists->runs.assign(static_cast<size_t>(args.n_stream * pages), {});
    }
    // One load and comparison per page of 64 keys, which are about to be read.
    for (int64_t stream = 0; stream < args.n_stream; ++stream) {
        const int64_t base = call.base_page(stream);
        for (int64_t page = 0; page < pages; ++page) {
            kernels::Run& run = lists->runs[static_cast<size_t>(stream * pages + page)];
            run.k = k_.page(base + page);
            run.v = v_.page(base + page);
            run.key = static_cast<int32_t>(page * kKeys);
            run.count = static_cast<int32_t>(std::min(kKeys, call.n_keys - page * kKeys));
        }
    }
    if (known) return;
    for (int64_t stream = 0; stream < args.n_stream; ++stream) {
        for (int64_t head = 0; head < args.n_head_kv; ++head)
            lists->heads.push_back(
                list_of(call, head, {lists->runs.data() + stream * pages, static_cast<size_t>(pages)}));
    }
    lists->n_keys = call.n_keys;
    lists->n_streams = args.n_stream;
    lists->first_page = call.base_page(0);
    lists->stream_pages = stream_pages;
    lists->k_inside = call.k.in_cell(0);
    lists->v_inside = call.v.in_cell(0);
}

void AllKeys::build(const AttentionCall& call, Lists* lists) const {
    /** Row of a key, and how many keys from it on lie evenly. */
    const auto row_at = [&](const KvRows& rows, const kv::Pinned& pinned, int64_t stream, int64_t head, int64_t key,
                            int64_t* count) {
        *count = call.n_keys - key;
        if (!rows.pages) return rows.memory + rows.at(stream, head, key);
        const auto page = static_cast<int64_t>(rows.pages->page_bytes());
        const int64_t at = rows.in_table(stream, head, key);
        *count = std::min(*count, (page - at % page - 1) / rows.key_stride + 1);
        return pinned.page(at / page) + at % page;
    };
    std::vector<std::pair<size_t, size_t>> parts;
    lists->runs.clear();
    for (int64_t stream = 0; stream < call.args.n_stream; ++stream) {
        for (int64_t head = 0; head < call.args.n_head_kv; ++head) {
            const size_t begin = lists->runs.size();
            for (int64_t key = 0; key < call.n_keys;) {
                int64_t k_count = 0;
                int64_t v_count = 0;
                const std::byte* k = row_at(call.k, k_, stream, head, key, &k_count);
                const std::byte* v = row_at(call.v, v_, stream, head, key, &v_count);
                const int64_t count = std::min(k_count, v_count);
                lists->runs.push_back({k, v, static_cast<int32_t>(key), static_cast<int32_t>(count)});
                key += count;
            }
            parts.emplace_back(begin, lists->runs.size());
        }
    }
    lists->heads.clear();
    for (const auto& [begin, end] : parts) lists->heads.push_back({{lists->runs.data() + begin, end - begin}});
}

}  // namespace atlas::attention
