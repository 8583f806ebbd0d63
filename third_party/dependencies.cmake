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

kvbatch_library(lz4 lz4.h lz4)
kvbatch_library(zstd zstd.h zstd)
kvbatch_library(isal isa-l/crc.h isal)
kvbatch_library(xxhash xxhash.h xxhash)

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
  file(STRINGS ${KVBATCH_ROCKSDB_INCLUDE}/rocksdb/version.h version_lines REGEX "#define ROCKSDB_(MAJOR|MINOR)")
  string(REGEX REPLACE ".*MAJOR ([0-9]+).*MINOR ([0-9]+).*" "\\1.\\2" rocksdb_version "${version_lines}")
  if(rocksdb_version VERSION_LESS 7.8)
    message(FATAL_ERROR "KVBATCH_ROCKSDB=system needs RocksDB 7.8 or newer; ${KVBATCH_ROCKSDB_INCLUDE} has ${rocksdb_version}")
  endif()
  add_library(kvbatch::rocksdb UNKNOWN IMPORTED)
  set_target_properties(kvbatch::rocksdb PROPERTIES
    IMPORTED_LOCATION ${KVBATCH_ROCKSDB_LIBRARY}
    INTERFACE_INCLUDE_DIRECTORIES ${KVBATCH_ROCKSDB_INCLUDE}
    INTERFACE_LINK_LIBRARIES "Threads::Threads")
  message(STATUS "RocksDB: installed ${rocksdb_version}")
endif()
