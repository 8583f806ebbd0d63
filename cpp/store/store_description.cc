#include "store/store_description.h"

#include <rocksdb/comparator.h>
#include <rocksdb/convenience.h>
#include <rocksdb/db.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/merge_operator.h>
#include <rocksdb/table.h>
#include <rocksdb/version.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>

#include "store/block_memory.h"
#include "store/rocksdb_status.h"

namespace kvbatch {

namespace {

namespace fs = std::filesystem;

class Silent final : public rocksdb::Logger {
 public:
  Silent() : rocksdb::Logger(rocksdb::InfoLogLevel::FATAL_LEVEL) {}

  using rocksdb::Logger::Logv;
  void Logv(const char* /*format*/, va_list /*arguments*/) override {}
};

struct CompressionName {
  const char* name;
  const char* in_options_file;
  rocksdb::CompressionType type;
};

constexpr CompressionName kCompressions[] = {
    {"none", "kNoCompression", rocksdb::kNoCompression},
    {"snappy", "kSnappyCompression", rocksdb::kSnappyCompression},
    {"zlib", "kZlibCompression", rocksdb::kZlibCompression},
    {"bzip2", "kBZip2Compression", rocksdb::kBZip2Compression},
    {"lz4", "kLZ4Compression", rocksdb::kLZ4Compression},
    {"lz4hc", "kLZ4HCCompression", rocksdb::kLZ4HCCompression},
    {"zstd", "kZSTD", rocksdb::kZSTD},
};

// RocksDB escapes '\\', '#', ':' and line ends in the names of OPTIONS sections.
std::string Unescape(std::string_view text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 1 < text.size()) {
      ++i;
      plain += text[i] == 'n' ? '\n' : text[i] == 'r' ? '\r' : text[i];
    } else {
      plain += text[i];
    }
  }
  return plain;
}

using Section = std::map<std::string, std::string>;

struct OptionsFile {
  Section database;
  std::map<std::string, Section> families;  // by column family name
  std::map<std::string, Section> tables;
};

std::string Trim(const std::string& text) {
  const auto first = text.find_first_not_of(" \t");
  return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

// `[DBOptions]`, `[CFOptions "name"]`, `[TableOptions/BlockBasedTable "name"]`
Section* OpenSection(const std::string& line, OptionsFile* file) {
  if (line.starts_with("[DBOptions]")) {
    return &file->database;
  }
  const auto open = line.find('"');
  const auto close = line.rfind('"');
  if (open == std::string::npos || close <= open) {
    return nullptr;
  }
  const std::string name = Unescape(std::string_view(line).substr(open + 1, close - open - 1));
  if (line.starts_with("[CFOptions ")) {
    return &file->families[name];
  }
  if (line.starts_with("[TableOptions/BlockBasedTable ")) {
    return &file->tables[name];
  }
  return nullptr;
}

OptionsFile ReadOptionsFile(const fs::path& path) {
  OptionsFile file;
  Section* section = nullptr;
  std::ifstream input(path, std::ios::binary);
  for (std::string raw; std::getline(input, raw);) {
    const std::string line = Trim(raw);
    if (line.starts_with("[")) {
      section = OpenSection(line, &file);
    } else if (const auto equals = line.find('='); section != nullptr && equals != std::string::npos) {
      (*section)[Trim(line.substr(0, equals))] = Trim(line.substr(equals + 1));
    }
  }
  return file;
}

fs::path NewestOptionsFile(const fs::path& directory) {
  fs::path newest;
  uint64_t newest_number = 0;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    constexpr std::string_view kPrefix = "OPTIONS-";
    uint64_t number = 0;
    if (name.starts_with(kPrefix)) {
      const char* end = name.data() + name.size();
      const auto parsed = std::from_chars(name.data() + kPrefix.size(), end, number);
      if (parsed.ec == std::errc() && parsed.ptr == end && number >= newest_number) {
        newest = entry.path();
        newest_number = number;
      }
    }
  }
  return newest;
}

std::string Get(const Section& section, const std::string& name) {
  const auto found = section.find(name);
  return found == section.end() || found->second == "nullptr" ? "" : found->second;
}

// Objects with options of their own are written as {id=NAME;option=value;}.
std::string ObjectName(const std::string& value) {
  constexpr std::string_view kId = "id=";
  const auto id = value.find(kId);
  if (!value.starts_with("{") || id == std::string::npos) {
    return value;
  }
  const auto begin = id + kId.size();
  return value.substr(begin, value.find_first_of(";}", begin) - begin);
}

std::string CompressionOf(const Section& family) {
  std::string name = Get(family, "bottommost_compression");
  if (name.empty() || name == "kDisableCompressionOption") {
    const std::string levels = Get(family, "compression_per_level");
    name = levels.empty() ? Get(family, "compression") : levels.substr(levels.rfind(':') + 1);
  }
  for (const auto& compression : kCompressions) {
    if (name == compression.in_options_file) {
      return compression.name;
    }
  }
  return ColumnFamilyDescription().compression;
}

template <typename Number>
std::optional<Number> GetNumber(const Section& section, const std::string& name) {
  const std::string text = Get(section, name);
  Number number = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
  return parsed.ec == std::errc() ? std::optional(number) : std::nullopt;
}

void Fill(const OptionsFile& file, ColumnFamilyDescription* family) {
  if (const auto found = file.families.find(family->name); found != file.families.end()) {
    if (const std::string comparator = ObjectName(Get(found->second, "comparator")); !comparator.empty()) {
      family->comparator = comparator;
    }
    family->merge_operator = Get(found->second, "merge_operator");
    family->compression = CompressionOf(found->second);
    family->num_levels = GetNumber<int>(found->second, "num_levels").value_or(family->num_levels);
  }
  if (const auto found = file.tables.find(family->name); found != file.tables.end()) {
    family->filter_policy = ObjectName(Get(found->second, "filter_policy"));
    const auto block_size = GetNumber<uint64_t>(found->second, "block_size");
    if (block_size && *block_size >= 1024) {
      family->block_size = std::min<uint64_t>(*block_size, 1 << 20);
    }
  }
}

const rocksdb::Comparator* FindComparator(const std::string& name) {
  for (const auto* known : {rocksdb::BytewiseComparator(), rocksdb::ReverseBytewiseComparator()}) {
    if (name == known->Name()) {
      return known;
    }
  }
  return nullptr;
}

std::shared_ptr<rocksdb::MergeOperator> FindMergeOperator(const std::string& value) {
  std::shared_ptr<rocksdb::MergeOperator> merge_operator;
  if (value.empty()) {
    return nullptr;
  }
  rocksdb::ConfigOptions config;
  config.ignore_unknown_options = true;
  const auto status = rocksdb::MergeOperator::CreateFromString(config, value, &merge_operator);
  return status.ok() ? merge_operator : nullptr;
}

class Failing final : public rocksdb::MergeOperator {
 public:
  explicit Failing(std::string name) : name_(std::move(name)) {}

  const char* Name() const override { return name_.c_str(); }
  bool FullMergeV2(const MergeOperationInput& /*in*/, MergeOperationOutput* /*out*/) const override { return false; }

 private:
  const std::string name_;
};

// RocksDB knows no larger number that makes sense; what a peer sends is not trusted.
constexpr int kMaxLevels = 64;

Status NoStore(const std::string& path, const std::string& why) {
  return Status(Code::kUsage, path + " " + why + ". Nothing was written; give the directory that holds the store's " +
                                  "CURRENT file");
}

}  // namespace

std::string RocksdbVersion() {
  return std::to_string(ROCKSDB_MAJOR) + "." + std::to_string(ROCKSDB_MINOR) + "." + std::to_string(ROCKSDB_PATCH);
}

std::shared_ptr<rocksdb::Logger> SilentLogger() { return std::make_shared<Silent>(); }

Result<std::vector<ColumnFamilyDescription>> DescribeStore(const std::string& path) {
  std::error_code error;
  const bool stands = fs::exists(path, error);
  if (error) {
    return FromErrno(Code::kSource, "look at " + path, error.value());
  }
  if (!stands) {
    return NoStore(path, "does not exist");
  }
  if (!fs::is_directory(path, error)) {
    return NoStore(path, "is not a directory");
  }
  const bool has_current = fs::exists(fs::path(path) / "CURRENT", error);
  if (error) {
    return FromErrno(Code::kSource, "look into " + path, error.value());
  }
  if (!has_current) {
    return NoStore(path, "is not a RocksDB directory: it has no CURRENT file");
  }
  std::vector<std::string> names;
  rocksdb::DBOptions options;
  options.info_log = SilentLogger();
  if (const auto status = rocksdb::DB::ListColumnFamilies(options, path, &names); !status.ok()) {
    return FromSource(status, "list the column families of " + path);
  }
  OptionsFile file;
  if (const fs::path newest = NewestOptionsFile(path); !newest.empty()) {
    file = ReadOptionsFile(newest);
  }
  std::vector<ColumnFamilyDescription> families;
  for (const std::string& name : names) {
    ColumnFamilyDescription family;
    family.name = name;
    Fill(file, &family);
    families.push_back(std::move(family));
  }
  return families;
}

std::string WalDirectory(const std::string& path) {
  const fs::path newest = NewestOptionsFile(path);
  if (newest.empty()) {
    return path;
  }
  const std::string named = Get(ReadOptionsFile(newest).database, "wal_dir");
  std::error_code error;
  if (named.empty() || fs::equivalent(named, path, error) || !fs::is_directory(named, error) ||
      fs::exists(fs::path(named) / "CURRENT", error)) {
    return path;
  }
  return named;
}

bool AlignsBlocks(const std::string& path) {
  const fs::path newest = NewestOptionsFile(path);
  if (newest.empty()) {
    return false;
  }
  const auto tables = ReadOptionsFile(newest).tables;
  return std::any_of(tables.begin(), tables.end(),
                     [](const auto& table) { return Get(table.second, "block_align") == "true"; });
}

Status CheckComparator(const ColumnFamilyDescription& family) {
  constexpr std::string_view kTimestampSuffix = ".u64ts";
  if (family.comparator.ends_with(kTimestampSuffix)) {
    return Status(Code::kRefused, "column family \"" + family.name + "\" has user-defined timestamps (comparator " +
                                      family.comparator + "), which kvbatch does not move");
  }
  if (FindComparator(family.comparator) == nullptr) {
    return Status(Code::kRefused, "column family \"" + family.name + "\" is ordered by the comparator " +
                                      family.comparator + ", which this build does not know");
  }
  return Status::Ok();
}

std::shared_ptr<rocksdb::MergeOperator> FailingMergeOperator(const std::string& name) {
  return std::make_shared<Failing>(name);
}

bool HasUsableMergeOperator(const ColumnFamilyDescription& family) {
  return FindMergeOperator(family.merge_operator) != nullptr;
}

rocksdb::ColumnFamilyOptions OpenOptions(const ColumnFamilyDescription& family,
                                         const std::shared_ptr<rocksdb::Cache>& cache) {
  rocksdb::ColumnFamilyOptions options;
  options.comparator = FindComparator(family.comparator);
  options.merge_operator = FindMergeOperator(family.merge_operator);
  if (options.merge_operator == nullptr && !family.merge_operator.empty()) {
    options.merge_operator = FailingMergeOperator(family.merge_operator);
  }
  options.num_levels = std::clamp(family.num_levels, 1, kMaxLevels);
  if (options.num_levels == 1) {
    // Level compaction would ask for two.
    options.compaction_style = rocksdb::kCompactionStyleUniversal;
  }
  rocksdb::BlockBasedTableOptions table;
  // Every reader since RocksDB 6.6, Kvrocks included, opens format 5, if blocks have the checksum that it knows: XXH3,
  // the default since 7.0, came with 6.27.
  table.format_version = 5;
  table.checksum = rocksdb::kCRC32c;
  table.block_size = family.block_size;
  table.block_cache = cache == nullptr ? BlockMemoryCache() : cache;
  if (cache == nullptr) {
    // Whoever reads without a cache reads whole ranges.
    table.initial_auto_readahead_size = table.max_auto_readahead_size = kReadaheadBytes;
  }
  if (!family.filter_policy.empty()) {
    rocksdb::ConfigOptions config;
    config.ignore_unknown_options = true;
    std::shared_ptr<const rocksdb::FilterPolicy> policy;
    if (rocksdb::FilterPolicy::CreateFromString(config, family.filter_policy, &policy).ok()) {
      table.filter_policy = policy;
    }
  }
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  if (const auto compression = ParseCompression(family.compression); compression.ok()) {
    options.compression = compression.value();
  }
  return options;
}

Result<rocksdb::CompressionType> ParseCompression(const std::string& name) {
  const auto linked = rocksdb::GetSupportedCompressions();
  for (const auto& compression : kCompressions) {
    if (name == compression.name) {
      if (std::find(linked.begin(), linked.end(), compression.type) == linked.end()) {
        return Status(Code::kUsage, "this build has no " + name + " compression");
      }
      return compression.type;
    }
  }
  return Status(Code::kUsage, "unknown compression \"" + name + "\"");
}

}  // namespace kvbatch
