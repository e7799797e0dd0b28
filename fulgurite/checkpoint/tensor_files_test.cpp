// .npy, .npz and directories of them, as NumPy writes them, and what is refused.

#include "fulgurite/checkpoint/tensor_files.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "fulgurite/checkpoint/zip.h"
#include "fulgurite/core/error.h"
#include "test/tiny_model.h"

namespace fulgurite {
namespace {

namespace fs = std::filesystem;
using checkpoint::TensorFiles;

std::string npy(const std::string& descr, const std::string& shape, const std::string& data,
                const std::string& order = "False") {
  std::string header =
      fmt::format("{{'descr': '{}', 'fortran_order': {}, 'shape': {}, }}", descr, order, shape);
  header.resize((header.size() + 10 + 64) / 64 * 64 - 10, ' ');
  header.back() = '\n';
  const auto length = static_cast<uint16_t>(header.size());
  std::string file("\x93NUMPY\x01\x00", 8);
  file.append(reinterpret_cast<const char*>(&length), 2);
  return file + header + data;
}

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

struct Entry {
  std::string name, contents;
  bool deflate = false;
};

template <class T>
void put(std::string& to, T value) {
  to.append(reinterpret_cast<const char*>(&value), sizeof value);
}

std::string deflated(const std::string& text) {
  std::string out(text.size() + 100, '\0');
  z_stream stream{};
  deflateInit2(&stream, 9, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(out.size() - stream.avail_out);
  deflateEnd(&stream);
  return out;
}

std::string zip(const std::vector<Entry>& entries) {
  std::string file, directory;
  for (const Entry& entry : entries) {
    const std::string packed = entry.deflate ? deflated(entry.contents) : entry.contents;
    std::string common;
    put<uint16_t>(common, 20), put<uint16_t>(common, 0), put<uint16_t>(common, entry.deflate ? 8 : 0);
    put<uint32_t>(common, 0);
    put<uint32_t>(common,
                  static_cast<uint32_t>(crc32(0, reinterpret_cast<const Bytef*>(entry.contents.data()),
                                              static_cast<uInt>(entry.contents.size()))));
    put<uint32_t>(common, static_cast<uint32_t>(packed.size()));
    put<uint32_t>(common, static_cast<uint32_t>(entry.contents.size()));
    put<uint16_t>(common, static_cast<uint16_t>(entry.name.size())), put<uint16_t>(common, 0);
    put<uint32_t>(directory, 0x02014b50), put<uint16_t>(directory, 20);
    directory += common + std::string(10, '\0');
    put<uint32_t>(directory, static_cast<uint32_t>(file.size()));
    directory += entry.name;
    put<uint32_t>(file, 0x04034b50);
    file += common + entry.name + packed;
  }
  const auto at = static_cast<uint32_t>(file.size());
  file += directory;
  put<uint32_t>(file, 0x06054b50), put<uint32_t>(file, 0);
  put<uint16_t>(file, static_cast<uint16_t>(entries.size())),
      put<uint16_t>(file, static_cast<uint16_t>(entries.size()));
  put<uint32_t>(file, static_cast<uint32_t>(directory.size())), put<uint32_t>(file, at),
      put<uint16_t>(file, 0);
  return file;
}

fs::path written(const std::string& name, const std::string& contents) {
  const fs::path path = test::scratch_file(name);
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << contents;
  return path;
}

std::string refusal(const fs::path& path) {
  try {
    TensorFiles::open(path);
  } catch (const Error& error) {
    return error.what();
  }
  return "taken";
}

const std::string kArray = npy("<f4", "(2, 3)", bytes_of<float>({1, 2, 3, 4, 5, 6}));

TEST(tensor_files, a_npy_file_is_a_tensor_of_its_name) {
  const TensorFiles files = TensorFiles::open(written("layer0.q.npy", kArray));
  ASSERT_EQ(files.tensors().size(), 1u);
  const checkpoint::TensorView& tensor = *files.find("layer0.q");
  EXPECT_EQ(tensor.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(tensor.dtype, DType::kF32);
  float last = 0.0f;
  std::memcpy(&last, tensor.bytes.data() + 20, 4);
  EXPECT_EQ(last, 6.0f);
}

TEST(tensor_files, every_dtype_of_a_dump_is_read) {
  const auto dtype = [](const std::string& descr, size_t bytes) {
    return TensorFiles::open(written("a.npy", npy(descr, "(1,)", std::string(bytes, '\0'))))
        .tensors()[0]
        .dtype;
  };
  EXPECT_EQ(dtype("<f8", 8), DType::kF64);
  EXPECT_EQ(dtype("<f2", 2), DType::kF16);
  EXPECT_EQ(dtype("|V2", 2), DType::kBF16);
  EXPECT_EQ(dtype("<i4", 4), DType::kI32);
  EXPECT_EQ(dtype("<i8", 8), DType::kI64);
  EXPECT_EQ(
      TensorFiles::open(written("s.npy", npy("<i8", "()", std::string(8, '\0')))).tensors()[0].shape.size(),
      0u);
}

TEST(tensor_files, a_npz_file_stored_or_deflated) {
  const TensorFiles files =
      TensorFiles::open(written("a.npz", zip({{"layer0.q.npy", kArray}, {"layer1.q.npy", kArray, true}})));
  ASSERT_EQ(files.tensors().size(), 2u);
  EXPECT_EQ(std::memcmp(files.find("layer0.q")->bytes.data(), files.find("layer1.q")->bytes.data(), 24), 0);
}

TEST(tensor_files, a_directory_of_files_in_which_no_name_stands_twice) {
  fs::remove_all(test::scratch_file("dump"));
  written("dump/layer0.q.npy", kArray);
  written("dump/more.npz", zip({{"layer1.q.npy", kArray}}));
  written("dump/readme.txt", "not a tensor");
  EXPECT_EQ(TensorFiles::open(test::scratch_file("dump")).tensors().size(), 2u);
  written("dump/again.npz", zip({{"layer0.q.npy", kArray}}));
  EXPECT_NE(refusal(test::scratch_file("dump")).find("\"layer0.q\" stands twice"), std::string::npos);
}

TEST(tensor_files, what_is_no_such_file_is_refused_by_name) {
  const auto says = [](const fs::path& path, const std::string& part) {
    EXPECT_NE(refusal(path).find(part), std::string::npos) << refusal(path);
    EXPECT_NE(refusal(path).find(path.filename()), std::string::npos) << refusal(path);
  };
  says(written("b.npy", "nothing"), "expected a .npy file");
  says(written("c.npy", kArray.substr(0, kArray.size() - 1)), "takes 24 bytes, the file has 23");
  says(written("d.npy", npy("<c8", "(1,)", std::string(8, '\0'))), "found <c8");
  says(written("e.npy", npy("<f4", "(1, 2)", std::string(8, '\0'), "True")), "expected C order");
  says(written("f.npy", npy("<f4", "(-1,)", "")), "expected the header");
  says(written("g.npy", npy("<f4", "(9223372036854775807, 8)", "")), "beyond 63 bits");
  says(written("h.npz", "PK"), "no end of a central directory");
  says(written("i.npz", zip({{"x.txt", "text"}})), "expected entries NAME.npy");
  std::string damaged = zip({{"x.npy", kArray}});
  damaged[100] ^= 1;
  says(written("j.npz", damaged), "not those that were written");
  damaged = zip({{"x.npy", kArray, true}});
  damaged[60] ^= 0x55;
  EXPECT_NE(refusal(written("k.npz", damaged)), "taken");
  EXPECT_NE(refusal(test::scratch_file("none.npz")).find("none.npz"), std::string::npos);
}

// Every byte of the archive's own records, changed: refused, or what was written is read.
TEST(tensor_files, a_changed_archive_never_reads_beyond_itself) {
  const std::string good = zip({{"x.npy", kArray, true}, {"y.npy", kArray}});
  for (size_t at = 0; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x81);
    refusal(written("l.npz", bad));
  }
}

}  // namespace
}  // namespace fulgurite
