#include "store/recorded_checksums.h"

#include <rocksdb/file_checksum.h>
#include <rocksdb/sst_file_writer.h>
#include <rocksdb/table.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/checksum.h"
#include "store_testing.h"

namespace kvbatch::testing {
namespace {

namespace fs = std::filesystem;

// Four bytes as well, and crc32c of something: only the name tells.
class OtherGenerator final : public rocksdb::FileChecksumGenerator {
 public:
  void Update(const char* data, size_t size) override { crc_ = Crc32c({data, size}, crc_); }
  void Finalize() override { crc_ = ~crc_; }
  std::string GetChecksum() const override { return std::string(reinterpret_cast<const char*>(&crc_), sizeof(crc_)); }
  const char* Name() const override { return "example.Other"; }

 private:
  uint32_t crc_ = 0;
};

class OtherFactory final : public rocksdb::FileChecksumGenFactory {
 public:
  std::unique_ptr<rocksdb::FileChecksumGenerator> CreateFileChecksumGenerator(
      const rocksdb::FileChecksumGenContext& /*context*/) override {
    return std::make_unique<OtherGenerator>();
  }
  const char* Name() const override { return "example.OtherFactory"; }
};

rocksdb::DBOptions Recording(
    std::shared_ptr<rocksdb::FileChecksumGenFactory> factory = rocksdb::GetFileChecksumGenCrc32cFactory()) {
  rocksdb::DBOptions options;
  options.file_checksum_gen_factory = std::move(factory);
  return options;
}

std::string ContentOf(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class RecordedChecksumsTest : public ::testing::Test {
 protected:
  void Write(const rocksdb::DBOptions& options, const rocksdb::ColumnFamilyOptions& family = {}) {
    OwnedStore store(path_, {FamilyNamed("default", family), FamilyNamed("other", family)}, options);
    for (const char* name : {"default", "other"}) {
      for (const auto& [key, value] : SomeEntries(1000, 200)) {
        store.Put(key, value, name);
      }
      store.Flush(name);
    }
  }

  std::optional<uint32_t> Recorded(const std::string& file) const {
    return Must(OpenSource(path_)->RecordedCrc32c(fs::path(file).filename()));
  }

  const TempDir directory_;
  const std::string path_ = directory_ / "store";
};

TEST_F(RecordedChecksumsTest, AreTheCrc32cOfTheWholeFiles) {
  rocksdb::ColumnFamilyOptions blobs;
  blobs.enable_blob_files = true;
  blobs.min_blob_size = 100;
  Write(Recording(), blobs);
  for (const char* suffix : {".sst", ".blob"}) {
    const auto files = FilesEndingWith(path_, suffix);
    ASSERT_EQ(files.size(), 2U) << suffix;
    for (const std::string& file : files) {
      EXPECT_EQ(Recorded(file), Crc32c(ContentOf(file))) << file;
    }
  }
}

TEST_F(RecordedChecksumsTest, CompactedAndIngestedFilesHaveTheirs) {
  Write(Recording());
  {
    OwnedStore store(path_, {FamilyNamed("other")}, Recording());
    Check(store->CompactRange(rocksdb::CompactRangeOptions(), nullptr, nullptr));
    const std::string external = directory_ / "external.sst";
    rocksdb::SstFileWriter writer{rocksdb::EnvOptions(), rocksdb::Options()};
    Check(writer.Open(external));
    Check(writer.Put("key000007", "ingested"));
    Check(writer.Finish());
    rocksdb::IngestExternalFileOptions options;
    options.write_global_seqno = true;  // which changes the file after it was made
    Check(store->IngestExternalFile({external}, options));
  }
  const auto files = FilesEndingWith(path_, ".sst");
  ASSERT_GE(files.size(), 3U);
  for (const std::string& file : files) {
    EXPECT_EQ(Recorded(file), Crc32c(ContentOf(file))) << file;
  }
}

TEST_F(RecordedChecksumsTest, WhereNothingWasRecordedThereIsNone) {
  Write({});
  for (const std::string& file : FilesEndingWith(path_, ".sst")) {
    EXPECT_EQ(Recorded(file), std::nullopt);
  }
}

TEST_F(RecordedChecksumsTest, OnlyFilesSinceItWasAskedForHaveOne) {
  Write({});
  const auto before = FilesEndingWith(path_, ".sst");
  {
    OwnedStore store(path_, {FamilyNamed("other")}, Recording());
    store.Put("new", "entry");
    store.Flush();
  }
  size_t recorded = 0;
  for (const std::string& file : FilesEndingWith(path_, ".sst")) {
    const bool is_new = std::find(before.begin(), before.end(), file) == before.end();
    EXPECT_EQ(Recorded(file).has_value(), is_new) << file;
    recorded += is_new ? 1 : 0;
  }
  EXPECT_EQ(recorded, 1U);
}

TEST_F(RecordedChecksumsTest, AnotherFunctionIsNotTakenForCrc32c) {
  Write(Recording(std::make_shared<OtherFactory>()));
  for (const std::string& file : FilesEndingWith(path_, ".sst")) {
    EXPECT_EQ(Recorded(file), std::nullopt);
  }
}

TEST_F(RecordedChecksumsTest, OfFilesWithAlignedBlocksTheyAreNotReliedOn) {
  rocksdb::BlockBasedTableOptions table;
  table.block_align = true;
  rocksdb::ColumnFamilyOptions aligned;
  aligned.compression = rocksdb::kNoCompression;
  aligned.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  Write(Recording(), aligned);
  for (const std::string& file : FilesEndingWith(path_, ".sst")) {
    EXPECT_EQ(Recorded(file), std::nullopt);
  }
}

TEST_F(RecordedChecksumsTest, OtherFilesOfTheStoreHaveNone) {
  Write(Recording());
  for (const auto& entry : fs::directory_iterator(path_)) {
    if (entry.path().extension() != ".sst") {
      EXPECT_EQ(Recorded(entry.path()), std::nullopt) << entry.path();
    }
  }
  EXPECT_EQ(Recorded("999999.sst"), std::nullopt);
}

TEST(TableFileNumber, IsThatOfTablesAndBlobFilesOnly) {
  EXPECT_EQ(TableFileNumber("000017.sst"), 17U);
  EXPECT_EQ(TableFileNumber("000017.ldb"), 17U);
  EXPECT_EQ(TableFileNumber("18446744073709551615.blob"), ~uint64_t{0});
  for (const char* name : {"", "17", ".sst", "000017.log", "000017.sst.partial", "-17.sst", "MANIFEST-000017",
                           "18446744073709551616.sst"}) {
    EXPECT_EQ(TableFileNumber(name), std::nullopt) << name;
  }
}

}  // namespace
}  // namespace kvbatch::testing
