#include "batch/batch_builder.h"

#include <rocksdb/write_batch.h>

#include <functional>
#include <vector>

#include "batch/batch_reader.h"
#include "batch/wide_columns.h"
#include "store_testing.h"

namespace kvbatch::testing {
namespace {

// Enough families that some ids take two bytes as a varint.
constexpr uint32_t kFamilies = 140;

// RocksDB's own batches, with the ids of a real store.
class BatchBuilderTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = new TempDir();
    store_ = new OwnedStore(*directory_ / "store");
    std::vector<std::string> names;
    for (uint32_t id = 1; id < kFamilies; ++id) {
      names.push_back("family" + std::to_string(id));
    }
    rocksdb::ColumnFamilyOptions options;
    options.write_buffer_size = 64 << 10;
    handles_ = new std::vector<rocksdb::ColumnFamilyHandle*>();
    Check((*store_)->CreateColumnFamilies(options, names, handles_));
  }
  static void TearDownTestSuite() {
    for (auto* handle : *handles_) {
      (*store_)->DestroyColumnFamilyHandle(handle);
    }
    delete std::exchange(handles_, nullptr);
    delete std::exchange(store_, nullptr);
    delete std::exchange(directory_, nullptr);
  }

  static rocksdb::ColumnFamilyHandle* Handle(uint32_t id) {
    auto* handle = id == 0 ? store_->family() : (*handles_)[id - 1];
    EXPECT_EQ(handle->GetID(), id);
    return handle;
  }

 private:
  static inline TempDir* directory_ = nullptr;
  static inline OwnedStore* store_ = nullptr;
  static inline std::vector<rocksdb::ColumnFamilyHandle*>* handles_ = nullptr;
};

std::string EntityOf(const rocksdb::WideColumns& columns) {
  std::vector<WideColumn> views;
  for (const auto& column : columns) {
    views.emplace_back(std::string_view(column.name().data(), column.name().size()),
                       std::string_view(column.value().data(), column.value().size()));
  }
  std::string entity;
  SerializeEntity(views, &entity);
  return entity;
}

// Does one operation on both batches.
void AddBoth(RecordKind kind, rocksdb::ColumnFamilyHandle* handle, const std::string& key, const std::string& value,
             BatchBuilder* builder, rocksdb::WriteBatch* batch) {
  const uint32_t id = handle->GetID();
  switch (kind) {
    case RecordKind::kPut:
      Check(batch->Put(handle, key, value));
      ASSERT_TRUE(builder->Put(id, key, value));
      break;
    case RecordKind::kDelete:
      Check(batch->Delete(handle, key));
      ASSERT_TRUE(builder->Delete(id, key));
      break;
    case RecordKind::kSingleDelete:
      Check(batch->SingleDelete(handle, key));
      ASSERT_TRUE(builder->SingleDelete(id, key));
      break;
    case RecordKind::kDeleteRange:
      Check(batch->DeleteRange(handle, key, value));
      ASSERT_TRUE(builder->DeleteRange(id, key, value));
      break;
    case RecordKind::kMerge:
      Check(batch->Merge(handle, key, value));
      ASSERT_TRUE(builder->Merge(id, key, value));
      break;
    case RecordKind::kEntity: {
      const rocksdb::WideColumns columns{{rocksdb::kDefaultWideColumnName, value}, {"name", key}, {"other", value}};
      Check(batch->PutEntity(handle, key, columns));
      ASSERT_TRUE(builder->PutEntity(id, key, EntityOf(columns)));
      break;
    }
    case RecordKind::kLogData:
      Check(batch->PutLogData(value));
      ASSERT_TRUE(builder->PutLogData(value));
      break;
  }
}

constexpr RecordKind kKinds[] = {RecordKind::kPut,         RecordKind::kDelete, RecordKind::kSingleDelete,
                                 RecordKind::kDeleteRange, RecordKind::kMerge,  RecordKind::kEntity,
                                 RecordKind::kLogData};

TEST_F(BatchBuilderTest, AnEmptyBatchIsItsHeader) {
  char buffer[kBatchHeaderSize];
  std::memset(buffer, 'x', sizeof(buffer));
  BatchBuilder builder(buffer, sizeof(buffer));
  EXPECT_EQ(builder.Finish(), rocksdb::WriteBatch().Data());
  EXPECT_EQ(builder.count(), 0U);
}

TEST_F(BatchBuilderTest, EveryKindOfRecordHasRocksdbsBytes) {
  for (const RecordKind kind : kKinds) {
    for (const uint32_t id : {0U, 1U, 127U, 128U, kFamilies - 1}) {
      for (const size_t size : {0, 1, 127, 128, 20000}) {
        std::string buffer(100 + 4 * size, 'x');
        BatchBuilder builder(buffer.data(), buffer.size());
        rocksdb::WriteBatch batch;
        AddBoth(kind, Handle(id), std::string(size / 2, 'k'), std::string(size, 'v'), &builder, &batch);
        ASSERT_EQ(ToHex(builder.Finish()), ToHex(batch.Data()))
            << "kind " << static_cast<int>(kind) << ", family " << id << ", size " << size;
        EXPECT_EQ(builder.size(), batch.GetDataSize());
        EXPECT_EQ(builder.count(), batch.Count());
      }
    }
  }
}

TEST_F(BatchBuilderTest, RandomSequencesHaveRocksdbsBytes) {
  Random random(3);
  std::string buffer(1 << 16, '\0');
  for (int round = 0; round < 500; ++round) {
    BatchBuilder builder(buffer.data(), buffer.size());
    rocksdb::WriteBatch batch;
    for (size_t left = Below(random, 40); left > 0; --left) {
      const auto id = static_cast<uint32_t>(Below(random, 2) == 0 ? 0 : Below(random, kFamilies));
      AddBoth(kKinds[Below(random, std::size(kKinds))], Handle(id), RandomBytes(random, Below(random, 200)),
              RandomBytes(random, Below(random, 300)), &builder, &batch);
    }
    ASSERT_EQ(builder.Finish(), batch.Data()) << "round " << round;
  }
}

TEST_F(BatchBuilderTest, EntitiesHaveRocksdbsBytes) {
  const std::string long_name(200, 'n');
  const std::string long_value(70000, 'v');
  for (const rocksdb::WideColumns& columns : std::vector<rocksdb::WideColumns>{
           {},
           {{rocksdb::kDefaultWideColumnName, "only the default"}},
           {{"a", ""}},
           {{rocksdb::kDefaultWideColumnName, ""}, {"a", "1"}, {"b", "2"}, {long_name, long_value}}}) {
    rocksdb::WriteBatch batch;
    Check(batch.PutEntity(Handle(1), "key", columns));
    const std::string entity = EntityOf(columns);
    std::string buffer(200 + entity.size(), 'x');
    BatchBuilder builder(buffer.data(), buffer.size());
    ASSERT_TRUE(builder.PutEntity(1, "key", entity));
    EXPECT_EQ(builder.Finish(), batch.Data()) << columns.size() << " columns";
  }
}

TEST(BatchBuilder, FinishLeavesItOpenForMore) {
  char buffer[100];
  BatchBuilder builder(buffer, sizeof(buffer));
  ASSERT_TRUE(builder.Put(0, "a", "1"));
  const std::string first(builder.Finish());
  ASSERT_TRUE(builder.Put(0, "b", "2"));
  rocksdb::WriteBatch batch;
  Check(batch.Put("a", "1"));
  EXPECT_EQ(first, batch.Data());
  Check(batch.Put("b", "2"));
  EXPECT_EQ(builder.Finish(), batch.Data());
}

TEST(BatchBuilder, LogDataIsNotCounted) {
  char buffer[100];
  BatchBuilder builder(buffer, sizeof(buffer));
  ASSERT_TRUE(builder.PutLogData("note"));
  EXPECT_EQ(builder.count(), 0U);
  ASSERT_TRUE(builder.Delete(0, "k"));
  EXPECT_EQ(builder.count(), 1U);
}

// Every kind of record at every capacity that is too small, and at the one that is just enough.
TEST(BatchBuilder, ARecordThatDoesNotFitWritesNothing) {
  const std::string key(130, 'k');
  const std::string value(140, 'v');
  const std::vector<std::function<bool(BatchBuilder*, uint32_t)>> additions = {
      [&](BatchBuilder* builder, uint32_t family) { return builder->Put(family, key, value); },
      [&](BatchBuilder* builder, uint32_t family) { return builder->Merge(family, key, value); },
      [&](BatchBuilder* builder, uint32_t family) { return builder->DeleteRange(family, key, value); },
      [&](BatchBuilder* builder, uint32_t family) { return builder->PutEntity(family, key, value); },
      [&](BatchBuilder* builder, uint32_t family) { return builder->Delete(family, key); },
      [&](BatchBuilder* builder, uint32_t family) { return builder->SingleDelete(family, key); },
      [&](BatchBuilder* builder, uint32_t) { return builder->PutLogData(value); },
  };
  for (size_t kind = 0; kind < additions.size(); ++kind) {
    for (const uint32_t family : {0U, 127U, 128U, 0xffffffffU}) {
      std::string roomy(1000, '\0');
      BatchBuilder sizing(roomy.data(), roomy.size());
      ASSERT_TRUE(sizing.Put(0, "first", "1"));
      const size_t before = sizing.size();
      ASSERT_TRUE(additions[kind](&sizing, family));
      const size_t exact = sizing.size();
      for (size_t capacity = before; capacity <= exact; ++capacity) {
        GuardedMemory memory(capacity);
        char* buffer = memory.Tail(capacity);
        BatchBuilder builder(buffer, capacity);
        ASSERT_TRUE(builder.Put(0, "first", "1"));
        std::memset(buffer + before, 0x55, capacity - before);
        const bool added = additions[kind](&builder, family);
        ASSERT_EQ(added, capacity == exact) << "kind " << kind << ", family " << family << ", capacity " << capacity;
        if (!added) {
          ASSERT_EQ(builder.size(), before);
          ASSERT_EQ(builder.count(), 1U);
          ASSERT_EQ(std::string(buffer + before, capacity - before), std::string(capacity - before, 0x55));
        }
      }
    }
  }
}

TEST(BatchBuilder, SpaceForIsExact) {
  for (const size_t size : {0, 1, 127, 128, 16383, 16384, 3000000}) {
    const std::string key(size / 3, 'k');
    const std::string value(size, 'v');
    for (const uint32_t family : {0U, 1U, 0xffffffffU}) {
      std::string buffer(BatchBuilder::SpaceFor(family, key, value), '\0');
      BatchBuilder builder(buffer.data(), buffer.size());
      EXPECT_TRUE(builder.Put(family, key, value)) << size;
      EXPECT_EQ(builder.size(), buffer.size());
    }
  }
}

TEST(BatchBuilder, LongFamilyIdsComeBack) {
  std::string buffer(1000, '\0');
  BatchBuilder builder(buffer.data(), buffer.size());
  const std::vector<uint32_t> ids = {16383, 16384, 1 << 21, 1 << 28, 0xffffffff};
  for (const uint32_t id : ids) {
    ASSERT_TRUE(builder.Put(id, "k", "v"));
  }
  BatchReader reader(builder.Finish());
  Record record;
  for (const uint32_t id : ids) {
    ASSERT_TRUE(reader.Next(&record));
    EXPECT_EQ(record.column_family, id);
  }
  EXPECT_FALSE(reader.Next(&record));
  EXPECT_THAT(reader.status(), IsOk());
}

TEST(BatchBuilder, TakesViewsOfNothing) {
  char buffer[100];
  BatchBuilder builder(buffer, sizeof(buffer));
  ASSERT_TRUE(builder.Put(0, std::string_view(), std::string_view()));
  rocksdb::WriteBatch batch;
  Check(batch.Put("", ""));
  EXPECT_EQ(builder.Finish(), batch.Data());
}

}  // namespace
}  // namespace kvbatch::testing
