#include "fulgurite/cuda/cublaslt.h"

#include "fulgurite/core/error.h"

#if defined(__CUDACC__) && __has_include(<cublasLt.h>)
#include <cublasLt.h>
#include <dlfcn.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "fulgurite/cuda/check.h"
#endif

namespace fulgurite::cuda {

#if defined(__CUDACC__) && __has_include(<cublasLt.h>)

namespace {

constexpr const char* kLibrary = "libcublasLt.so.13";
constexpr int64_t kMostTokens = 16384;  // that an algorithm is asked for

// The functions of the library that are called.
struct Library {
  decltype(&cublasLtGetVersion) version = nullptr;
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtMatmulDescCreate) create_product = nullptr;
  decltype(&cublasLtMatmulDescDestroy) destroy_product = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) set_product = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) create_layout = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) destroy_layout = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) create_preference = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) destroy_preference = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) set_preference = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
  decltype(&cublasLtMatmulAlgoCheck) check = nullptr;
  decltype(&cublasLtMatmul) multiply = nullptr;
  bool is_here = false;
};

template <class Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

Library open_library() {
  Library l;
  void* const file = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  l.is_here = file != nullptr && find(file, "cublasLtGetVersion", l.version) &&
              find(file, "cublasLtCreate", l.create) &&
              find(file, "cublasLtMatmulDescCreate", l.create_product) &&
              find(file, "cublasLtMatmulDescDestroy", l.destroy_product) &&
              find(file, "cublasLtMatmulDescSetAttribute", l.set_product) &&
              find(file, "cublasLtMatrixLayoutCreate", l.create_layout) &&
              find(file, "cublasLtMatrixLayoutDestroy", l.destroy_layout) &&
              find(file, "cublasLtMatmulPreferenceCreate", l.create_preference) &&
              find(file, "cublasLtMatmulPreferenceDestroy", l.destroy_preference) &&
              find(file, "cublasLtMatmulPreferenceSetAttribute", l.set_preference) &&
              find(file, "cublasLtMatmulAlgoGetHeuristic", l.heuristic) &&
              find(file, "cublasLtMatmulAlgoCheck", l.check) && find(file, "cublasLtMatmul", l.multiply);
  return l;
}

const Library& library() {
  static const Library kFound = open_library();
  return kFound;
}

void must(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    fail(ErrorKind::kDevice, "cuBLASLt: {} failed: status {}", what, static_cast<int>(status));
}

// None where there is no GPU that it runs on.
cublasLtHandle_t handle() {
  static const cublasLtHandle_t kHandle = [] {
    cublasLtHandle_t created = nullptr;
    return library().create(&created) == CUBLAS_STATUS_SUCCESS ? created : nullptr;
  }();
  return kHandle;
}

// What the library is told of a product. The weight is its A, transposed; x its B, results its D, columns a token.
class Described {
 public:
  Described(const Fp8Shape& s, int64_t weight_stride, int64_t y_stride, const float* weight_scale,
            const float* x_scale) {
    must(library().create_product(&product_, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
    set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    set(CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F);
    set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F);
    set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, weight_scale);
    set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, x_scale);
    layout(weight_, CUDA_R_8F_E4M3, s.in, s.out, weight_stride);
    layout(x_, CUDA_R_8F_E4M3, s.in, s.tokens, s.in);
    layout(y_, CUDA_R_16BF, s.out, s.tokens, y_stride);
  }
  Described(const Described&) = delete;
  Described& operator=(const Described&) = delete;
  ~Described() {
    for (cublasLtMatrixLayout_t each : {weight_, x_, y_})
      if (each != nullptr) library().destroy_layout(each);
    if (product_ != nullptr) library().destroy_product(product_);
  }

  cublasLtMatmulDesc_t product_ = nullptr;
  cublasLtMatrixLayout_t weight_ = nullptr, x_ = nullptr, y_ = nullptr;

 private:
  template <class Value>
  void set(cublasLtMatmulDescAttributes_t attribute, const Value& value) {
    must(library().set_product(product_, attribute, &value, sizeof(value)), "cublasLtMatmulDescSetAttribute");
  }
  static void layout(cublasLtMatrixLayout_t& made, cudaDataType type, int64_t rows, int64_t columns,
                     int64_t stride) {
    must(library().create_layout(&made, type, static_cast<uint64_t>(rows), static_cast<uint64_t>(columns),
                                 stride),
         "cublasLtMatrixLayoutCreate");
  }
};

struct Choice {
  Fp8Shape shape;
  cublasLtMatmulAlgo_t algorithm;
};
// What was chosen while the process lives: plans are made in one thread while sessions run in others.
class Choices {
 public:
  std::optional<cublasLtMatmulAlgo_t> of(const Fp8Shape& shape) {
    const std::lock_guard lock(mutex_);
    const auto found = std::ranges::find(all_, shape, &Choice::shape);
    return found == all_.end() ? std::nullopt : std::optional(found->algorithm);
  }
  void add(const Choice& choice) {
    const std::lock_guard lock(mutex_);
    all_.push_back(choice);
  }

 private:
  std::mutex mutex_;
  std::vector<Choice> all_;
};
Choices& choices() {
  static Choices all;
  return all;
}

template <class Value>
void prefer(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute,
            Value value) {
  must(library().set_preference(preference, attribute, &value, sizeof(value)),
       "cublasLtMatmulPreferenceSetAttribute");
}

// The library's first proposal for the shape.
std::optional<cublasLtMatmulAlgo_t> proposal(const Described& d) {
  cublasLtMatmulPreference_t preference = nullptr;
  must(library().create_preference(&preference), "cublasLtMatmulPreferenceCreate");
  const std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, decltype(library().destroy_preference)> owned(
      preference, library().destroy_preference);
  prefer(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(kCublasltWorkspace));
  prefer(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
         static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_NONE));
  for (const auto alignment :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    prefer(preference, alignment, uint32_t{16});
  cublasLtMatmulHeuristicResult_t found{};
  int count = 0;
  const cublasStatus_t status =
      library().heuristic(handle(), d.product_, d.weight_, d.x_, d.y_, d.y_, preference, 1, &found, &count);
  if (status != CUBLAS_STATUS_SUCCESS || count == 0 || found.state != CUBLAS_STATUS_SUCCESS)
    return std::nullopt;
  return found.algo;
}

bool takes(const Described& d, const cublasLtMatmulAlgo_t& algorithm) {
  cublasLtMatmulHeuristicResult_t result{};
  const cublasStatus_t status =
      library().check(handle(), d.product_, d.weight_, d.x_, d.y_, d.y_, &algorithm, &result);
  return status == CUBLAS_STATUS_SUCCESS && result.state == CUBLAS_STATUS_SUCCESS &&
         result.workspaceSize <= static_cast<size_t>(kCublasltWorkspace);
}

}  // namespace

int cublaslt_version() { return library().is_here ? static_cast<int>(library().version()) : 0; }
bool cublaslt_answers() { return library().is_here && handle() != nullptr; }

// Of few tokens and a long K it proposes sums that meet in memory alone, and nothing without: then what it proposes for more tokens.
bool choose_cublaslt(const Fp8Shape& shape) {
  if (choices().of(shape)) return true;
  static const float kAnyScale = 1.0f;  // an address: nothing is read
  const auto described = [](const Fp8Shape& s, const auto& use) {
    const Described d(s, s.in, s.out, &kAnyScale, &kAnyScale);
    return use(d);
  };
  for (Fp8Shape wider = shape; wider.tokens <= kMostTokens; wider.tokens *= 2) {
    const auto found = described(wider, proposal);
    const auto takes_tokens = [&](int64_t tokens) {
      return described({shape.in, shape.out, tokens}, [&](const Described& d) { return takes(d, *found); });
    };
    // The call's own, and those of calls that it stands for: from half as many on, and four.
    if (!found || !takes_tokens(shape.tokens) || !takes_tokens(4) ||
        !takes_tokens(shape.tokens / 8 * 4 + 4) || !takes_tokens(std::max<int64_t>(shape.tokens - 4, 4)))
      continue;
    choices().add({shape, *found});
    return true;
  }
  return false;
}

void run_cublaslt(const Fp8Shape& as_chosen, const Fp8Shape& shape, const Fp8Product& p, void* stream) {
  const auto algorithm = choices().of(as_chosen);
  if (!algorithm)
    fail(ErrorKind::kPlan, "cuBLASLt: no algorithm was chosen for {} tokens of {} x {}", as_chosen.tokens,
         as_chosen.out, as_chosen.in);
  const Described d(shape, p.weight_stride, p.y_stride, p.weight_scale, p.x_scale);
  const float one = 1.0f, zero = 0.0f;
  must(library().multiply(handle(), d.product_, &one, p.weight, d.weight_, p.x, d.x_, &zero, p.y, d.y_, p.y,
                          d.y_, &*algorithm, p.workspace, static_cast<size_t>(kCublasltWorkspace),
                          static_cast<cudaStream_t>(stream)),
       "cublasLtMatmul");
}

#else

int cublaslt_version() { return 0; }
bool cublaslt_answers() { return false; }
bool choose_cublaslt(const Fp8Shape&) { return false; }
void run_cublaslt(const Fp8Shape&, const Fp8Shape&, const Fp8Product&, void*) {
  fail(ErrorKind::kDevice, "cuBLASLt: this build was made without it");
}

#endif

}  // namespace fulgurite::cuda
