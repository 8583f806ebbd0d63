# Every native dependency as one imported target, kvbatch::NAME. README.md beside this file says where each comes from.

find_package(Threads REQUIRED)
# Asked for once, with all that is needed: pybind11 takes the Python that was found before it.
set(python_components Interpreter)
if(KVBATCH_PYTHON)
  list(APPEND python_components Development.Module)
endif()
find_package(Python COMPONENTS ${python_components} REQUIRED)

# kvbatch_library(NAME HEADER LIBRARY...): an installed library, static or shared as the system has it.
function(kvbatch_library name header)
  find_path(KVBATCH_${name}_INCLUDE ${header} REQUIRED)
  find_library(KVBATCH_${name}_LIBRARY NAMES ${ARGN} REQUIRED)
  add_library(kvbatch::${name} UNKNOWN IMPORTED)
  set_target_properties(kvbatch::${name} PROPERTIES
    IMPORTED_LOCATION ${KVBATCH_${name}_LIBRARY}
    INTERFACE_INCLUDE_DIRECTORIES ${KVBATCH_${name}_INCLUDE})
endfunction()

# kvbatch_at_least(NAME HEADER VERSION): stops where the one in KVBATCH_NAME_INCLUDE is older. HEADER defines the parts of
# its version as numbers, in their order: LZ4_VERSION_MAJOR, ISAL_MINOR_VERSION, ROCKSDB_PATCH.
function(kvbatch_at_least name header least)
  set(file ${KVBATCH_${name}_INCLUDE}/${header})
  file(STRINGS ${file} parts LIMIT_COUNT 3 REGEX
    "^#define +[A-Z0-9]+_(VERSION_)?(MAJOR|MINOR|RELEASE|PATCH)(_VERSION)? +[0-9]+")
  list(TRANSFORM parts REPLACE "^#define +[A-Z0-9_]+ +([0-9]+).*" "\\1")
  list(JOIN parts . found)
  if(NOT found VERSION_GREATER_EQUAL least)
    message(FATAL_ERROR "kvbatch needs ${name} ${least} or newer; ${file} is of version \"${found}\". Install a newer one, "
      "or name it: -DKVBATCH_${name}_INCLUDE=DIR -DKVBATCH_${name}_LIBRARY=FILE")
  endif()
  set(kvbatch_${name}_version ${found} PARENT_SCOPE)
endfunction()

kvbatch_library(lz4 lz4.h lz4)
kvbatch_at_least(lz4 lz4.h 1.9)
kvbatch_library(zstd zstd.h zstd)
kvbatch_at_least(zstd zstd.h 1.5)
kvbatch_library(isal isa-l/crc.h isal)
kvbatch_at_least(isal isa-l.h 2.30)
kvbatch_library(xxhash xxhash.h xxhash)
kvbatch_at_least(xxhash xxhash.h 0.8.1)

execute_process(
  COMMAND ${Python_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/rocksdb.py
  OUTPUT_VARIABLE rocksdb_answer
  OUTPUT_STRIP_TRAILING_WHITESPACE
  COMMAND_ERROR_IS_FATAL ANY)

if(rocksdb_answer MATCHES "^prefix=(.+)$")
  set(rocksdb_prefix ${CMAKE_MATCH_1})
  kvbatch_library(snappy snappy.h snappy)
  kvbatch_library(z zlib.h z)
  kvbatch_library(bz2 bzlib.h bz2)
  add_library(kvbatch::rocksdb STATIC IMPORTED)
  set_target_properties(kvbatch::rocksdb PROPERTIES
    IMPORTED_LOCATION ${rocksdb_prefix}/lib/librocksdb.a
    INTERFACE_INCLUDE_DIRECTORIES ${rocksdb_prefix}/include
    INTERFACE_LINK_LIBRARIES
      "kvbatch::lz4;kvbatch::zstd;kvbatch::snappy;kvbatch::z;kvbatch::bz2;Threads::Threads;${CMAKE_DL_LIBS}")
  message(STATUS "RocksDB: ${rocksdb_prefix}")
else()
  find_path(KVBATCH_ROCKSDB_INCLUDE rocksdb/db.h REQUIRED)
  find_library(KVBATCH_ROCKSDB_LIBRARY NAMES rocksdb REQUIRED)
  kvbatch_at_least(ROCKSDB rocksdb/version.h 7.8)
  add_library(kvbatch::rocksdb UNKNOWN IMPORTED)
  set_target_properties(kvbatch::rocksdb PROPERTIES
    IMPORTED_LOCATION ${KVBATCH_ROCKSDB_LIBRARY}
    INTERFACE_INCLUDE_DIRECTORIES ${KVBATCH_ROCKSDB_INCLUDE}
    INTERFACE_LINK_LIBRARIES "Threads::Threads")
  message(STATUS "RocksDB: installed ${kvbatch_ROCKSDB_version}")
endif()
