#include "kernels/cuda/write_rows.h"

#include <algorithm>
#include <string>
#include <vector>

#include "kernels/cuda/plan.h"

namespace atlas::kernels::cuda {
namespace {

Status check(const RowWrites& w) {
    const auto bad = [](const std::string& what) { return Status::invalid_argument("writing rows on CUDA: " + what); };
    RowType type;
    if (!row_type_of(w.type, &type)) {
        return Status::unsupported("writing rows on CUDA: allowed types are f16, bf16, q8_0 and q4_0");
    }
    const DataTypeInfo& info = data_type_info(w.type);
    if (w.n < 1 || w.n % info.block_elements != 0) {
        return bad(std::to_string(w.n) + " elements of " + info.name + " are no multiple of " +
                   std::to_string(info.block_elements));
    }
    const auto bytes = static_cast<int64_t>(row_bytes(w.type, w.n));
    if (w.offset < 0 || w.offset % 2 != 0 || w.row_stride % 2 != 0 || w.offset + bytes > w.row_stride) {
        return bad(std::to_string(bytes) + " bytes at " + std::to_string(w.offset) + " of cells of " +
                   std::to_string(w.row_stride));
    }
    const auto cells = static_cast<int64_t>(w.pages.size()) / w.row_stride;
    for (const int64_t cell : w.cells) {
        if (cell >= cells) return bad("cell " + std::to_string(cell) + " of " + std::to_string(cells));
    }
    return Status::ok();
}

}  // namespace

Status write_rows(Device& device, const RowWrites& w) {
    if (Status status = check(w); !status.is_ok()) return status;
    if (w.cells.empty()) return Status::ok();
    const size_t page_bytes = static_cast<size_t>(kPageKeys * w.row_stride);
    // Rows of a source start at multiples of 4 elements.
    const int64_t source_stride = (w.n + 3) / 4 * 4;
    std::vector<float> source(w.cells.size() * static_cast<size_t>(source_stride));
    for (size_t r = 0; r < w.cells.size(); ++r) {
        std::copy_n(w.rows.data() + r * static_cast<size_t>(w.n), w.n,
                    source.data() + r * static_cast<size_t>(source_stride));
    }
    Buffer rows, cells, pages, table;
    std::vector<uint64_t> addresses;
    Status status = device.allocate(source.size() * sizeof(float), &rows);
    if (status.is_ok()) status = device.allocate(w.cells.size_bytes(), &cells);
    if (status.is_ok()) status = device.allocate(w.pages.size(), &pages);
    for (size_t at = 0; at < w.pages.size(); at += page_bytes) addresses.push_back(pages.address() + at);
    if (status.is_ok()) status = device.allocate(addresses.size() * sizeof(uint64_t), &table);
    if (status.is_ok()) status = device.upload(rows, source.data(), source.size() * sizeof(float));
    if (status.is_ok()) status = device.upload(cells, w.cells.data(), w.cells.size_bytes());
    if (status.is_ok()) status = device.upload(pages, w.pages.data(), w.pages.size());
    if (status.is_ok()) status = device.upload(table, addresses.data(), addresses.size() * sizeof(uint64_t));
    WriteArguments a{};
    a.source = rows.as<float>();
    a.source_stride = source_stride;
    a.pages = table.as<unsigned char* const>();
    a.cells = cells.as<int64_t>();
    a.row_stride = w.row_stride;
    a.offset = w.offset;
    a.rows = static_cast<int32_t>(w.cells.size());
    a.n = static_cast<int32_t>(w.n);
    (void)row_type_of(w.type, &a.type);
    if (status.is_ok()) status = device.launch(Kernel::write_rows, static_cast<uint32_t>(a.rows), 1, &a);
    if (status.is_ok()) status = device.download(w.pages.data(), pages, w.pages.size());
    if (Status waited = device.wait(); status.is_ok()) status = waited;
    return status;
}

}  // namespace atlas::kernels::cuda
