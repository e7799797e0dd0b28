#pragma once
// Every weight of a checkpoint at its exact value, read without the library's number formats and binding:
// codes by their definition, scales by their names, rows of the fused tensor by config.json. What the library
// computes from a form must be what it computes from these values in F32.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "fulgurite/checkpoint/safetensors.h"
#include "fulgurite/checkpoint/writer.h"
#include "test/tiny_model.h"

namespace fulgurite::test {

class IndependentReader {
 public:
  explicit IndependentReader(const std::filesystem::path& directory) {
    std::ifstream(directory / "config.json") >> config_;
    for (const auto& entry : std::filesystem::directory_iterator(directory))
      if (entry.path().extension() == ".safetensors") read_file(entry.path());
    dequantize();
    split_fused();
  }

  struct Values {
    std::vector<int64_t> shape;
    std::vector<double> elements;
  };
  const std::map<std::string, Values>& weights() const { return weights_; }

  // A checkpoint of F32 alone.
  void write(const std::filesystem::path& directory) const {
    std::filesystem::create_directories(directory);
    nlohmann::json config = config_;
    config.erase("quantization_config");
    config.erase("expert_dtype");
    std::ofstream(directory / "config.json") << config.dump();
    std::vector<checkpoint::TensorView> tensors;
    std::map<std::string, std::vector<float>> rounded;
    for (const auto& [name, values] : weights_) {
      std::vector<float>& floats = rounded[name];
      for (const double element : values.elements) floats.push_back(static_cast<float>(element));
      tensors.push_back({name, DType::kF32, values.shape, std::as_bytes(std::span(floats))});
    }
    checkpoint::write_safetensors(directory / "model.safetensors", tensors);
  }

 private:
  struct Raw {
    std::string dtype;
    std::vector<int64_t> shape;
    std::vector<uint8_t> bytes;
  };

  void read_file(const std::filesystem::path& path) {
    const auto file = checkpoint::SafetensorsFile::open(path);
    for (const checkpoint::TensorView& tensor : file.tensors()) {
      Raw& raw = raw_[tensor.name];
      raw.dtype = name(tensor.dtype);
      raw.shape = tensor.shape;
      raw.bytes.resize(tensor.bytes.size());
      std::memcpy(raw.bytes.data(), tensor.bytes.data(), tensor.bytes.size());
    }
  }

  static double small_float(int code, int exponent_bits, int fraction_bits, int bias) {
    const int exponent = code >> fraction_bits & ((1 << exponent_bits) - 1);
    const double fraction = std::ldexp(code & ((1 << fraction_bits) - 1), -fraction_bits);
    const double magnitude =
        exponent == 0 ? std::ldexp(fraction, 1 - bias) : std::ldexp(1 + fraction, exponent - bias);
    return code >> (exponent_bits + fraction_bits) & 1 ? -magnitude : magnitude;
  }

  static std::vector<double> elements(const Raw& raw) {
    std::vector<double> values;
    const auto& b = raw.bytes;
    if (raw.dtype == "F32" || raw.dtype == "BF16") {
      const size_t width = raw.dtype == "F32" ? 4 : 2;
      for (size_t i = 0; i < b.size(); i += width) {
        uint32_t bits = 0;
        for (size_t j = 0; j < width; ++j) bits |= static_cast<uint32_t>(b[i + j]) << (8 * (j + 4 - width));
        const double fraction = std::ldexp(bits & 0x7FFFFF, -23);
        const int exponent = static_cast<int>(bits >> 23 & 255);
        const double magnitude =
            exponent == 0 ? std::ldexp(fraction, -126) : std::ldexp(1 + fraction, exponent - 127);
        values.push_back(bits >> 31 != 0 ? -magnitude : magnitude);
      }
    } else if (raw.dtype == "F8_E4M3") {
      for (const uint8_t code : b) values.push_back(small_float(code, 4, 3, 7));
    } else if (raw.dtype == "F8_E8M0") {
      for (const uint8_t code : b) values.push_back(std::ldexp(1.0, code - 127));
    } else {  // fp4
      for (const uint8_t pair : b)
        for (const int code : {pair & 15, pair >> 4}) values.push_back(small_float(code, 2, 1, 1));
    }
    return values;
  }

  void dequantize() {
    for (const auto& [name, raw] : raw_) {
      if (name.ends_with("_scale_inv") || name.ends_with("_scale") || name.ends_with(".scale") ||
          name.ends_with("_scale_2"))
        continue;
      Values& values = weights_[name];
      values.shape = raw.shape;
      values.elements = elements(raw);
      if (raw.dtype == "BF16" || raw.dtype == "F32") continue;
      if (raw.dtype != "F8_E4M3") values.shape[1] *= 2;
      scale(name.substr(0, name.size() - std::string(".weight").size()), raw.dtype == "F8_E4M3", values);
    }
  }

  void scale(const std::string& module, bool fp8, Values& values) const {
    const Raw* scales = nullptr;
    for (const char* const suffix : {".weight_scale_inv", ".weight_scale", ".scale"})
      if (const auto at = raw_.find(module + suffix); at != raw_.end()) scales = &at->second;
    ASSERT_NE(scales, nullptr) << module;
    const std::vector<double> factors = elements(*scales);
    double global = 1.0;
    if (const auto at = raw_.find(module + ".weight_scale_2"); at != raw_.end())
      global = elements(at->second)[0];
    const int64_t columns = values.shape[1], scale_columns = scales->shape.size() > 1 ? scales->shape[1] : 1;
    int64_t block_rows = 1, block_columns = columns;
    const auto& quantization = config_["quantization_config"];
    if (!fp8) {
      block_columns = columns / scale_columns;
    } else if (quantization.contains("weight_block_size")) {
      block_rows = quantization["weight_block_size"][0];
      block_columns = quantization["weight_block_size"][1];
    }
    for (size_t i = 0; i < values.elements.size(); ++i) {
      const int64_t row = static_cast<int64_t>(i) / columns, column = static_cast<int64_t>(i) % columns;
      values.elements[i] *=
          factors[static_cast<size_t>(row / block_rows * scale_columns + column / block_columns)] * global;
    }
  }

  void split_fused() {
    const auto keys = config_["index_head_dim"].get<int64_t>();
    for (auto at = weights_.begin(); at != weights_.end();) {
      const std::string fused = "wk_weights_proj.weight";
      if (!at->first.ends_with(fused)) {
        ++at;
        continue;
      }
      const std::string prefix = at->first.substr(0, at->first.size() - fused.size());
      const Values& both = at->second;
      const int64_t columns = both.shape[1];
      const auto middle = both.elements.begin() + keys * columns;
      weights_[prefix + "wk.weight"] = {{keys, columns}, {both.elements.begin(), middle}};
      weights_[prefix + "weights_proj.weight"] = {{both.shape[0] - keys, columns},
                                                  {middle, both.elements.end()}};
      at = weights_.erase(at);
    }
  }

  nlohmann::json config_;
  std::map<std::string, Raw> raw_;
  std::map<std::string, Values> weights_;
};

}  // namespace fulgurite::test
