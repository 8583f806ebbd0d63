#include "batch/batch_reader.h"

#include <rocksdb/write_batch.h>

#include <vector>

#include "batch/batch_builder.h"
#include "batch/wide_columns.h"
#include "testing.h"

namespace kvbatch::testing {
namespace {

std::string Entity(const std::vector<WideColumn>& columns) {
  std::string entity;
  SerializeEntity(columns, &entity);
  return entity;
}

std::string Varint(uint32_t value) {
  char bytes[kMaxVarint32Length];
  return {bytes, static_cast<size_t>(EncodeVarint32(bytes, value) - bytes)};
}

std::string Prefixed(std::string_view bytes) {
  return Varint(static_cast<uint32_t>(bytes.size())) + std::string(bytes);
}

std::string Batch(uint32_t count, const std::string& records) {
  std::string batch(8, '\0');
  AppendFixed(&batch, count);
  return batch + records;
}

// A record: its tag and then whatever follows it.
std::string Tagged(int tag, const std::vector<std::string>& fields) {
  std::string record(1, static_cast<char>(tag));
  for (const std::string& field : fields) {
    record += field;
  }
  return record;
}

// Every tag once, LogData first, so that each cut loses a counted record.
std::string EveryTag(uint32_t* count = nullptr) {
  std::string buffer(2000, '\0');
  BatchBuilder builder(buffer.data(), buffer.size());
  const std::string entity = Entity({{"", "default"}, {"a", "1"}, {"bb", ""}});
  bool fits = builder.PutLogData("note");
  for (const uint32_t family : {0U, 5U, 300U}) {
    fits = fits && builder.Put(family, "key", std::string(130, 'v')) && builder.Delete(family, "gone") &&
           builder.SingleDelete(family, "once") && builder.DeleteRange(family, "from", "to") &&
           builder.Merge(family, "sum", "12345678") && builder.PutEntity(family, "wide", entity) &&
           builder.Put(family, "", "");
  }
  EXPECT_TRUE(fits);
  if (count != nullptr) {
    *count = builder.count();
  }
  return std::string(builder.Finish());
}

class CountingHandler final : public rocksdb::WriteBatch::Handler {
 public:
  rocksdb::Status PutCF(uint32_t, const rocksdb::Slice&, const rocksdb::Slice&) override { return Counted(); }
  rocksdb::Status DeleteCF(uint32_t, const rocksdb::Slice&) override { return Counted(); }
  rocksdb::Status SingleDeleteCF(uint32_t, const rocksdb::Slice&) override { return Counted(); }
  rocksdb::Status DeleteRangeCF(uint32_t, const rocksdb::Slice&, const rocksdb::Slice&) override { return Counted(); }
  rocksdb::Status MergeCF(uint32_t, const rocksdb::Slice&, const rocksdb::Slice&) override { return Counted(); }
  rocksdb::Status PutEntityCF(uint32_t, const rocksdb::Slice&, const rocksdb::Slice&) override { return Counted(); }
  void LogData(const rocksdb::Slice&) override {}

  uint32_t count() const { return count_; }

 private:
  rocksdb::Status Counted() {
    ++count_;
    return rocksdb::Status::OK();
  }
  uint32_t count_ = 0;
};

// What passes here must be what RocksDB takes, and what fails must say so as kCorruption.
void ExpectSoundVerdict(std::string_view batch, size_t* accepted = nullptr) {
  const auto summary = ValidateBatch(batch, BatchRules());
  if (!summary.ok()) {
    ASSERT_EQ(summary.status().code(), Code::kCorruption) << ToHex(batch);
    return;
  }
  CountingHandler handler;
  const auto status = rocksdb::WriteBatch(std::string(batch)).Iterate(&handler);
  ASSERT_TRUE(status.ok()) << status.ToString() << " for " << ToHex(batch);
  ASSERT_EQ(handler.count(), summary.value().records) << ToHex(batch);
  if (accepted != nullptr) {
    ++*accepted;
  }
}

TEST(BatchReader, GivesEveryRecordBack) {
  const std::string batch = EveryTag();
  BatchReader reader(batch);
  Record record;
  ASSERT_TRUE(reader.Next(&record));
  EXPECT_EQ(record.kind, RecordKind::kLogData);
  EXPECT_EQ(record.key, "note");
  EXPECT_EQ(reader.counted(), 0U);
  for (const uint32_t family : {0U, 5U, 300U}) {
    const std::vector<std::tuple<RecordKind, std::string, std::string>> expected = {
        {RecordKind::kPut, "key", std::string(130, 'v')},
        {RecordKind::kDelete, "gone", ""},
        {RecordKind::kSingleDelete, "once", ""},
        {RecordKind::kDeleteRange, "from", "to"},
        {RecordKind::kMerge, "sum", "12345678"},
        {RecordKind::kEntity, "wide", Entity({{"", "default"}, {"a", "1"}, {"bb", ""}})},
        {RecordKind::kPut, "", ""}};
    for (const auto& [kind, key, value] : expected) {
      ASSERT_TRUE(reader.Next(&record));
      EXPECT_EQ(record.kind, kind);
      EXPECT_EQ(record.column_family, family);
      EXPECT_EQ(record.key, key);
      EXPECT_EQ(record.value, value);
    }
  }
  EXPECT_FALSE(reader.Next(&record));
  EXPECT_FALSE(reader.Next(&record));
  EXPECT_THAT(reader.status(), IsOk());
  EXPECT_EQ(reader.counted(), reader.declared_count());
}

TEST(BatchReader, StopsForGoodAtTheFirstFault) {
  const std::string batch =
      Batch(2, Tagged(0x01, {Prefixed("k"), Prefixed("v")}) + Tagged(0x7f, {Tagged(0x01, {Prefixed("k")})}));
  BatchReader reader(batch);
  Record record;
  ASSERT_TRUE(reader.Next(&record));
  EXPECT_FALSE(reader.Next(&record));
  EXPECT_THAT(reader.status(), Fails(Code::kCorruption, "offset 17"));
  EXPECT_FALSE(reader.Next(&record));
  EXPECT_EQ(reader.counted(), 1U);
}

TEST(ValidateBatch, SumsUpWhatItHolds) {
  uint32_t count = 0;
  const std::string batch = EveryTag(&count);
  const auto summary = ValidateBatch(batch, BatchRules());
  ASSERT_THAT(summary, IsOk());
  const uint64_t entity = Entity({{"", "default"}, {"a", "1"}, {"bb", ""}}).size();
  EXPECT_EQ(summary.value().records, count);
  EXPECT_EQ(summary.value().key_bytes, 3 * (3 + 4 + 4 + 4 + 3 + 4));
  EXPECT_EQ(summary.value().value_bytes, 3 * (130 + 2 + 8 + entity));
  EXPECT_EQ(summary.value().first_key, "key");
  EXPECT_EQ(summary.value().last_key, "");
}

TEST(ValidateBatch, AnEmptyBatchIsWellFormed) {
  const auto summary = ValidateBatch(Batch(0, ""), BatchRules());
  ASSERT_THAT(summary, IsOk());
  EXPECT_EQ(summary.value().records, 0U);
}

TEST(ValidateBatch, EveryTruncationIsCorruption) {
  const std::string batch = EveryTag();
  GuardedMemory memory(batch.size());
  for (size_t size = 0; size < batch.size(); ++size) {
    EXPECT_THAT(ValidateBatch(memory.Place(std::string_view(batch).substr(0, size)), BatchRules()),
                Fails(Code::kCorruption))
        << "cut to " << size;
  }
  EXPECT_THAT(ValidateBatch(memory.Place(batch), BatchRules()), IsOk());
}

TEST(ValidateBatch, BytesBehindTheLastRecordAreCorruption) {
  const std::string batch = EveryTag();
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_THAT(ValidateBatch(batch + static_cast<char>(byte), BatchRules()), Fails(Code::kCorruption)) << byte;
  }
}

TEST(ValidateBatch, EveryChangedByteHasASoundVerdict) {
  const std::string batch = EveryTag();
  GuardedMemory memory(batch.size());
  for (size_t offset = 0; offset < batch.size(); ++offset) {
    for (int value = 0; value < 256; ++value) {
      std::string changed = batch;
      changed[offset] = static_cast<char>(value);
      ASSERT_NO_FATAL_FAILURE(ExpectSoundVerdict(memory.Place(changed))) << "offset " << offset;
    }
  }
}

TEST(ValidateBatch, GarbageHasASoundVerdict) {
  Random random(4);
  const std::string valid = EveryTag();
  GuardedMemory memory(1024);
  size_t accepted = 0;
  for (int round = 0; round < 200'000; ++round) {
    std::string garbage;
    if (round % 2 == 0) {
      // Tags that exist and short lengths get further than noise.
      AppendFixed<uint64_t>(&garbage, 0);
      AppendFixed(&garbage, static_cast<uint32_t>(Below(random, 4)));
      for (size_t left = Below(random, 60); left > 0; --left) {
        garbage += static_cast<char>(Below(random, Below(random, 8) == 0 ? 256 : 10));
      }
    } else {
      garbage = valid.substr(0, kBatchHeaderSize + Below(random, valid.size()));
      for (size_t left = 1 + Below(random, 8); left > 0; --left) {
        garbage[Below(random, garbage.size())] = static_cast<char>(random());
      }
    }
    ASSERT_NO_FATAL_FAILURE(ExpectSoundVerdict(memory.Place(garbage), &accepted)) << "round " << round;
  }
  // The inputs are of use only when some of them pass.
  EXPECT_GT(accepted, 1000U);
}

TEST(ValidateBatch, AWrongCountIsCorruptionBothWays) {
  const std::string record = Tagged(0x01, {Prefixed("k"), Prefixed("v")});
  for (const uint32_t count : {0U, 1U, 3U, 0xffffffffU}) {
    EXPECT_THAT(ValidateBatch(Batch(count, record + record), BatchRules()),
                Fails(Code::kCorruption, "counts " + std::to_string(count) + " records, it holds 2"));
  }
  EXPECT_THAT(ValidateBatch(Batch(1, ""), BatchRules()), Fails(Code::kCorruption));
  EXPECT_THAT(ValidateBatch(Batch(1, Tagged(0x03, {Prefixed("note")})), BatchRules()), Fails(Code::kCorruption));
  EXPECT_THAT(ValidateBatch(Batch(2, record + record), BatchRules()), IsOk());
}

TEST(ValidateBatch, OnlyTheKnownTagsPass) {
  const std::set<int> plain = {0x00, 0x01, 0x02, 0x03, 0x07, 0x0f, 0x16};
  const std::set<int> with_family = {0x04, 0x05, 0x06, 0x08, 0x0e, 0x17};
  const std::set<int> key_only = {0x00, 0x03, 0x04, 0x07, 0x08};
  for (int tag = 0; tag < 256; ++tag) {
    const std::string value = Prefixed(tag == 0x16 || tag == 0x17 ? Entity({{"n", "v"}}) : "v");
    const std::string record =
        Tagged(tag, {with_family.contains(tag) ? Varint(1) : "", Prefixed("k"), key_only.contains(tag) ? "" : value});
    const auto verdict = ValidateBatch(Batch(tag == 0x03 ? 0 : 1, record), BatchRules());
    if (plain.contains(tag) || with_family.contains(tag)) {
      EXPECT_THAT(verdict, IsOk()) << tag;
    } else {
      EXPECT_THAT(verdict, Fails(Code::kCorruption, "unknown record tag " + std::to_string(tag) + " at offset 12"));
    }
  }
}

TEST(ValidateBatch, AFamilyThatIsNotAllowedIsNamed) {
  const std::string batch = EveryTag();
  BatchRules rules;
  std::set<uint32_t> allowed = {0, 5, 300};
  rules.column_families = &allowed;
  EXPECT_THAT(ValidateBatch(batch, rules), IsOk());
  allowed = {0, 5};
  EXPECT_THAT(ValidateBatch(batch, rules), Fails(Code::kCorruption, "record 15 names column family id 300"));
  allowed = {5, 300};
  EXPECT_THAT(ValidateBatch(batch, rules), Fails(Code::kCorruption, "record 1 names column family id 0"));
  allowed = {};
  EXPECT_THAT(ValidateBatch(batch, rules), Fails(Code::kCorruption));
  EXPECT_THAT(ValidateBatch(Batch(0, Tagged(0x03, {Prefixed("note")})), rules), IsOk()) << "LogData has no family";
}

TEST(ValidateBatch, OnlyPutsMeansPutsAndEntities) {
  BatchRules rules;
  rules.only_puts = true;
  const std::string put = Tagged(0x01, {Prefixed("k"), Prefixed("v")});
  const std::string entity = Tagged(0x16, {Prefixed("w"), Prefixed(Entity({{"n", "v"}}))});
  EXPECT_THAT(ValidateBatch(Batch(2, put + entity), rules), IsOk());
  for (const auto& [count, record] :
       std::vector<std::pair<uint32_t, std::string>>{{1, Tagged(0x00, {Prefixed("k")})},
                                                     {1, Tagged(0x07, {Prefixed("k")})},
                                                     {1, Tagged(0x0f, {Prefixed("a"), Prefixed("b")})},
                                                     {1, Tagged(0x02, {Prefixed("k"), Prefixed("v")})},
                                                     {1, Tagged(0x04, {Varint(1), Prefixed("k")})},
                                                     {1, Tagged(0x0e, {Varint(1), Prefixed("a"), Prefixed("b")})},
                                                     {0, Tagged(0x03, {Prefixed("note")})}}) {
    EXPECT_THAT(ValidateBatch(Batch(count, record), BatchRules()), IsOk()) << ToHex(record);
    EXPECT_THAT(ValidateBatch(Batch(count, record), rules), Fails(Code::kCorruption)) << ToHex(record);
    EXPECT_THAT(ValidateBatch(Batch(count + 1, put + record), rules), Fails(Code::kCorruption)) << ToHex(record);
  }
}

TEST(ValidateBatch, AMalformedEntityIsCorruption) {
  for (const char* hex : {"", "01", "00 00", "02 00", "01 01", "01 01 01 6e", "01 01 01 6e 02 76", "01 00 76",
                          "01 02 01 62 00 01 61 00", "01 02 01 61 00 01 61 00", "01 ff ff ff ff 0f"}) {
    const std::string batch = Batch(1, Tagged(0x16, {Prefixed("k"), Prefixed(FromHex(hex))}));
    EXPECT_THAT(ValidateBatch(batch, BatchRules()), Fails(Code::kCorruption, "record 1 has malformed columns")) << hex;
  }
}

}  // namespace
}  // namespace kvbatch::testing
