#include "store/entry_pages.h"

#include <filesystem>

#include "store/family_shape.h"
#include "target_testing.h"

namespace kvbatch::testing {
namespace {

class EntryPagesTest : public ::testing::Test {
 protected:
  std::shared_ptr<SourceStore> StoreOf(const Entries& entries, bool flush = true) {
    {
      OwnedStore owner(path_);
      for (const auto& [key, value] : entries) {
        owner.Put(key, value);
      }
      if (flush) {
        owner.Flush();
      }
    }
    return OpenSource(path_);
  }

  // Reads all pages; each must be well-made.
  static std::vector<EntryPage> AllPages(const std::shared_ptr<SourceStore>& store, RangeBounds bounds,
                                         size_t head_bytes, PageSize size) {
    EntryPages pages(store, Must(store->Family("default")), std::move(bounds), head_bytes, size);
    std::vector<EntryPage> all;
    while (auto page = Must(pages.Next())) {
      EXPECT_GT(page->entries(), 0U);
      EXPECT_LE(page->entries(), size.entries);
      EXPECT_EQ(page->key_offsets.size(), page->entries() + 1);
      EXPECT_EQ(page->key_offsets.front(), 0);
      EXPECT_EQ(page->key_offsets.back(), static_cast<int64_t>(page->keys.size()));
      EXPECT_EQ(page->value_heads.size(), page->entries() * head_bytes);
      all.push_back(std::move(*page));
    }
    EXPECT_FALSE(Must(pages.Next()));
    return all;
  }

  static std::string KeyOf(const EntryPage& page, size_t index) {
    const auto begin = static_cast<size_t>(page.key_offsets[index]);
    return page.keys.substr(begin, static_cast<size_t>(page.key_offsets[index + 1]) - begin);
  }

  const TempDir directory_;
  const std::string path_ = directory_ / "store";
};

TEST_F(EntryPagesTest, PagesHoldEveryEntryInOrder) {
  const Entries entries = SomeEntries(100);
  for (const bool flush : {true, false}) {
    const auto store = StoreOf(entries, flush);
    for (const size_t size : {1, 7, 100, 1000}) {
      size_t found = 0;
      for (const EntryPage& page : AllPages(store, {}, 5, {.entries = size})) {
        for (size_t i = 0; i < page.entries(); ++i, ++found) {
          EXPECT_EQ(KeyOf(page, i), entries[found].first);
          EXPECT_EQ(page.value_sizes[i], static_cast<int64_t>(entries[found].second.size()));
          EXPECT_EQ(page.value_heads.substr(5 * i, 5), entries[found].second.substr(0, 5));
        }
      }
      EXPECT_EQ(found, entries.size()) << "pages of " << size;
    }
  }
}

TEST_F(EntryPagesTest, ARangeIsReadFromItsStartUpToItsEnd) {
  const auto store = StoreOf(SomeEntries(100));
  const auto pages = AllPages(store, {"key000010", "key000020", {}}, 0, {});
  ASSERT_EQ(pages.size(), 1U);
  EXPECT_EQ(pages[0].entries(), 10U);
  EXPECT_EQ(KeyOf(pages[0], 0), "key000010");
  EXPECT_EQ(KeyOf(pages[0], 9), "key000019");
  EXPECT_TRUE(pages[0].value_heads.empty());
  EXPECT_TRUE(AllPages(store, {"l", {}, {}}, 0, {}).empty());
}

TEST_F(EntryPagesTest, APageEndsWithTheKeyThatFillsIt) {
  const auto store = StoreOf({{"a", ""}, {std::string(50, 'b'), ""}, {"c", ""}, {"d", ""}});
  const auto pages = AllPages(store, {}, 0, {.entries = 100, .key_bytes = 20});
  ASSERT_EQ(pages.size(), 2U);
  EXPECT_EQ(pages[0].entries(), 2U);
  EXPECT_EQ(pages[1].entries(), 2U);
}

TEST_F(EntryPagesTest, HeadsOfShortValuesAreFilledWithZeros) {
  const std::string large(size_t{3} << 20, 'x');
  const auto store = StoreOf({{"", "12"}, {"empty", ""}, {"large", large}});
  const auto pages = AllPages(store, {}, 4, {});
  ASSERT_EQ(pages.size(), 1U);
  EXPECT_EQ(KeyOf(pages[0], 0), "");
  EXPECT_EQ(pages[0].value_heads, std::string("12\0\0\0\0\0\0xxxx", 12));
  EXPECT_EQ(pages[0].value_sizes, (std::vector<int64_t>{2, 0, static_cast<int64_t>(large.size())}));
}

TEST_F(EntryPagesTest, ADamagedFileIsNamed) {
  StoreOf(SomeEntries(20'000));
  const auto files = FilesEndingWith(path_, ".sst");
  ASSERT_EQ(files.size(), 1U);
  std::string bytes = ReadFile(files[0]);
  bytes[bytes.size() / 2] ^= 1;
  WriteFile(files[0], bytes);
  const auto store = OpenSource(path_);
  EntryPages pages(store, Must(store->Family("default")), {}, 0);
  EXPECT_THAT(pages.Next(), Fails(Code::kSource, std::filesystem::path(files[0]).filename().string()));
}

TEST(DigestKeyPartsTest, ADigestIsThatOfBothPartsTogether) {
  const std::string_view keys = "one..two";
  const std::vector<KeyParts> parts = {{0, 3, 5, 8}, {0, 3, 8, 8}, {5, 8, 0, 3}, {4, 4, 4, 4}};
  const DigestColumns found = Must(DigestKeyParts(keys, parts));
  size_t row = 0;
  for (const std::string_view both : {"onetwo", "one", "twoone", ""}) {
    EXPECT_EQ((Digest{found.low.at(row), found.high.at(row)}), Xxh3(both)) << both;
    ++row;
  }
  EXPECT_EQ(found.low.size(), row);
}

TEST(DigestKeyPartsTest, PartsOutsideOfTheKeysAreRefused) {
  for (const KeyParts part :
       {KeyParts{-1, 0, 0, 0}, KeyParts{0, 4, 0, 0}, KeyParts{2, 1, 0, 0}, KeyParts{0, 0, -1, 0}, KeyParts{0, 0, 0, 4},
        KeyParts{0, 0, 3, 2}, KeyParts{0, INT64_MAX, 0, 0}, KeyParts{INT64_MIN, 0, 0, 0}}) {
    const std::vector<KeyParts> parts = {part};
    EXPECT_THAT(DigestKeyParts("abc", parts), Fails(Code::kUsage));
  }
}

TEST_F(EntryPagesTest, TheShapeOfAFamilyIsItsFilesByLevel) {
  {
    OwnedStore owner(path_, {FamilyNamed("other")});
    owner.Put("key", "value");
    owner.Flush();
    owner.Put("moved down", "value", "other");
    owner.Flush("other");
    Check(owner->CompactRange(rocksdb::CompactRangeOptions(), owner.family("other"), nullptr, nullptr));
    for (const std::string key : {"a", "b"}) {
      owner.Put(key, "value", "other");
      owner.Flush("other");
    }
  }
  const auto store = OpenSource(path_);
  const FamilyShape shape = ShapeOf(store->db(), Must(store->Family("other")));
  EXPECT_EQ(shape.id, 1U);
  EXPECT_EQ(shape.blob_files, 0U);
  ASSERT_EQ(shape.levels.size(), 2U);
  EXPECT_EQ(shape.levels[0].level, 0);
  EXPECT_EQ(shape.levels[0].files, 2U);
  EXPECT_GT(shape.levels[1].level, 0);
  EXPECT_EQ(shape.levels[1].files, 1U);
  const uint64_t bytes = shape.levels[0].bytes + shape.levels[1].bytes;
  EXPECT_EQ(bytes, Must(store->Figures("other")).file_bytes);
}

}  // namespace
}  // namespace kvbatch::testing
