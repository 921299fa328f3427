#pragma once

namespace atlas {

// Values in the order of the words in base/options.def.

enum class DeviceMode { kOwner, kAccel };

/** Who multiplies with the model's weights. */
enum class WeightsMode { kHost, kOwn };

/** Which pages of the KV cache leave memory first. */
enum class Eviction { kScore, kLru };

/** kVerbose is another word for kDebug. */
enum class LogLevel { kTrace, kDebug, kInfo, kWarn, kError, kOff, kVerbose };

enum class AttentionMode {
    kExact,   ///< every key, the plain kernels
    kWindow,  ///< sinks and window only: the control that fails at retrieval
    kSparse,  ///< sinks, window, selected keys, and an estimate of the rest
};

/** What becomes of keys that are not read. */
enum class Rest {
    kEstimate,  ///< counted with their estimated weights and their page's mean value
    kDrop,      ///< left out: a control
};

/** Features of a query before the memory sees it, in the order of memory::FeatureType. */
enum class MemoryFeatures { kIdentity, kPolynomial, kExponential, kFourier, kRbf };

/** What learns: least squares is the Omega rule's limit for a linear memory and an unlimited window. */
enum class FarMemoryKind { kLeastSquares, kLinear, kDeep, kGated };

enum class MemoryMode {
    kCorrect,  ///< learns what the far estimate gets wrong (ATLAS_MODE=sparse)
    kBlend,  ///< learns k → v of what left the exact part; output (1 − r)·attention + r·M(q) (ATLAS_MODE=sparse or window)
};

}  // namespace atlas
