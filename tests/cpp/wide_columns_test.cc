#include "batch/wide_columns.h"

#include "testing.h"

namespace kvbatch::testing {
namespace {

std::string Serialized(const std::vector<WideColumn>& columns) {
  std::string entity;
  SerializeEntity(columns, &entity);
  return entity;
}

const std::vector<WideColumn> kColumns = {{"", "default"}, {"a", ""}, {"name", "value"}};

TEST(WideColumns, HaveTheBytesOfTheGrammar) {
  EXPECT_EQ(ToHex(Serialized({})), "0100");
  EXPECT_EQ(ToHex(Serialized({{"a", "12"}, {"b", ""}})),
            "0102"
            "016102"
            "016200"
            "3132");
}

TEST(WideColumns, AreAppended) {
  std::string out = "before";
  SerializeEntity({}, &out);
  EXPECT_EQ(out, std::string("before\x01\x00", 8));
}

TEST(WideColumns, RoundTrip) {
  const std::string long_name(300, 'n');
  const std::string long_value(100'000, 'v');
  std::vector<WideColumn> many;
  std::vector<std::string> names;
  for (int i = 100; i < 400; ++i) {
    names.push_back(std::to_string(i));
  }
  for (const std::string& name : names) {
    many.emplace_back(name, name);
  }
  for (const auto& columns : {std::vector<WideColumn>{}, kColumns, {{long_name, long_value}}, many}) {
    const std::string entity = Serialized(columns);
    std::vector<WideColumn> decoded = {{"left over", "from before"}};
    ASSERT_TRUE(DecodeEntity(entity, &decoded));
    EXPECT_EQ(decoded, columns);
    EXPECT_TRUE(IsWellFormedEntity(entity));
  }
}

TEST(WideColumns, EveryCutIsMalformed) {
  const std::string entity = Serialized(kColumns);
  GuardedMemory memory(entity.size());
  for (size_t size = 0; size < entity.size(); ++size) {
    EXPECT_FALSE(IsWellFormedEntity(memory.Place(std::string_view(entity).substr(0, size)))) << size;
  }
}

TEST(WideColumns, BytesBehindTheLastValueAreMalformed) {
  EXPECT_FALSE(IsWellFormedEntity(Serialized(kColumns) + "x"));
  EXPECT_FALSE(IsWellFormedEntity(Serialized({}) + "x"));
}

TEST(WideColumns, AnotherVersionIsMalformed) {
  std::string entity = Serialized(kColumns);
  for (const char version : {'\0', '\2', '\x7f'}) {
    entity[0] = version;
    EXPECT_FALSE(IsWellFormedEntity(entity));
  }
}

TEST(WideColumns, NamesOutOfOrderAreMalformed) {
  EXPECT_FALSE(IsWellFormedEntity(Serialized({{"b", "1"}, {"a", "2"}})));
  EXPECT_FALSE(IsWellFormedEntity(Serialized({{"a", "1"}, {"a", "2"}})));
  EXPECT_FALSE(IsWellFormedEntity(Serialized({{"a", "1"}, {"", "2"}})));
  EXPECT_TRUE(IsWellFormedEntity(Serialized({{"a", "1"}, {"\x80", "2"}}))) << "names compare as unsigned bytes";
}

TEST(WideColumns, AHugeCountTakesNoMemory) {
  EXPECT_FALSE(IsWellFormedEntity(FromHex("01 ffffffff0f")));
  EXPECT_FALSE(IsWellFormedEntity(FromHex("01 ffffffff0f 0000")));
}

TEST(WideColumns, SizesThatAddUpPast32BitsAreMalformed) {
  EXPECT_FALSE(IsWellFormedEntity(FromHex("01 02 00 ffffffff0f 0161 02 78")));
}

TEST(WideColumns, GarbageIsNeverReadPastItsEnd) {
  Random random(5);
  GuardedMemory memory(64);
  size_t accepted = 0;
  std::vector<WideColumn> columns;
  for (int round = 0; round < 100'000; ++round) {
    std::string garbage = "\x01";
    for (size_t left = Below(random, 30); left > 0; --left) {
      garbage += static_cast<char>(Below(random, Below(random, 8) == 0 ? 256 : 5));
    }
    const std::string_view placed = memory.Place(garbage);
    if (DecodeEntity(placed, &columns)) {
      ++accepted;
      size_t bytes = 0;
      for (const auto& [name, value] : columns) {
        bytes += name.size() + value.size();
      }
      ASSERT_LE(bytes, placed.size());
    }
  }
  EXPECT_GT(accepted, 100U);
}

}  // namespace
}  // namespace kvbatch::testing
