#include "host/graph/op_kind.h"

#include <array>
#include <string_view>
#include <utility>

namespace atlas::host {
namespace {

constexpr int kMaxOps = 512;

std::array<OpKind, kMaxOps> look_up_kinds() {
    static constexpr std::pair<const char*, OpKind> kNames[] = {
        {"NONE", OpKind::kView},        {"VIEW", OpKind::kView},        {"RESHAPE", OpKind::kView},
        {"PERMUTE", OpKind::kView},     {"TRANSPOSE", OpKind::kView},   {"CPY", OpKind::kCopy},
        {"CONT", OpKind::kCopy},        {"DUP", OpKind::kCopy},         {"ROPE", OpKind::kRope},
        {"MUL_MAT", OpKind::kMatMul},   {"GET_ROWS", OpKind::kGetRows}, {"MUL_MAT_ID", OpKind::kMatMulId},
        {"SET_ROWS", OpKind::kSetRows},
    };
    std::array<OpKind, kMaxOps> kinds;
    kinds.fill(OpKind::kOther);
    for (const auto& [name, kind] : kNames) {
        if (const int op = op_number(name); op >= 0) kinds[static_cast<size_t>(op)] = kind;
    }
    return kinds;
}

}  // namespace

int op_number(const char* name) {
    // The last of every host that is known. GGML_OP_COUNT is that of our headers, and ggml_op_name does not look whether it has a name.
    constexpr std::string_view kLast = "GLU";
    const std::string_view wanted(name);
    for (int op = 0; op < kMaxOps; ++op) {
        const std::string_view found(ggml_op_name(static_cast<ggml_op>(op)));
        if (found == wanted) return op;
        if (found == kLast) break;
    }
    return -1;
}

OpKind op_kind(ggml_op op) {
    static const std::array<OpKind, kMaxOps> kinds = look_up_kinds();
    const auto index = static_cast<size_t>(op);
    return index < kinds.size() ? kinds[index] : OpKind::kOther;
}

}  // namespace atlas::host
