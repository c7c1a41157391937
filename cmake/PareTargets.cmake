# One static library per folder of src/. Arrows point downwards only: tests/tidy checks the includes against
# the same list that is linked here.

find_package(Threads REQUIRED)

add_library(pare_options INTERFACE)
target_include_directories(pare_options INTERFACE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
# Warnings are errors under the compilers that the tests run with. A newer one that sees more must not stop a build.
set(pare_warnings_are_errors OFF)
if((CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13) OR
   (CMAKE_CXX_COMPILER_ID STREQUAL "Clang" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 15))
  set(pare_warnings_are_errors ON)
endif()
set(pare_cxx_options -Wall -Wextra -Wshadow -Wno-missing-field-initializers
  $<$<BOOL:${pare_warnings_are_errors}>:-Werror>
  # An fp32 result must not depend on which expressions the compiler chose to contract: every fused
  # multiply-add in a kernel is written as one.
  -ffp-contract=off -fno-math-errno
  # GCC 12 reports overlapping copies inside std::string::operator+ that cannot happen (GCC bug 105329).
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)
target_compile_options(pare_options INTERFACE "$<$<COMPILE_LANGUAGE:C,CXX>:${pare_cxx_options}>")
target_link_libraries(pare_options INTERFACE Threads::Threads)
if(PARE_SANITIZE)
  # Instrumentation breaks the data flow that -Wmaybe-uninitialized and its kin reason about: warnings are errors in
  # plain builds only.
  target_compile_options(pare_options INTERFACE -Wno-error -fsanitize=${PARE_SANITIZE} -fno-omit-frame-pointer
    -fno-sanitize-recover=all)
  target_link_options(pare_options INTERFACE -fsanitize=${PARE_SANITIZE})
endif()
# The folders that fuzz targets link: they alone carry libFuzzer's counters, so that one tree serves tests and fuzzing.
set(PARE_FUZZED_MODULES base tensor plan io text quant attention kv)

# Defines PARE_FAULT_<name> where it is seeded and nowhere else, so that the next fault rebuilds little.
function(pare_seed_fault target)
  foreach(source ${ARGN})
    file(STRINGS ${source} seeded REGEX "PARE_FAULT_${PARE_FAULT}$")
    if(seeded AND source MATCHES "\\.h$")
      target_compile_definitions(${target} PRIVATE PARE_FAULT_${PARE_FAULT}=1)
    elseif(seeded)
      set_source_files_properties(${source} PROPERTIES COMPILE_DEFINITIONS PARE_FAULT_${PARE_FAULT}=1)
    endif()
    if(seeded)
      set_property(GLOBAL PROPERTY PARE_FAULT_SEEDED TRUE)
    endif()
  endforeach()
endfunction()

# Sources are compiled for the x86-64 baseline. A file named *_<level>.cc gets the flags of that CPU level
# and is entered only through a table that the run-time check guards.
set(PARE_FLAGS_avx2 -mavx2 -mfma -mf16c -mbmi -mbmi2 -mlzcnt -mpopcnt)
set(PARE_FLAGS_avx512 ${PARE_FLAGS_avx2} -mavx512f -mavx512bw -mavx512cd -mavx512dq -mavx512vl -mavx512vnni
  -mavx512vbmi -mprefer-vector-width=512)
set(PARE_FLAGS_amx ${PARE_FLAGS_avx512} -mavx512bf16 -mamx-tile -mamx-int8 -mamx-bf16)

function(pare_set_isa_flags)
  if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    return()
  endif()
  foreach(source ${ARGN})
    foreach(level avx2 avx512 amx)
      if(source MATCHES "_${level}\\.cc$")
        set(flags ${PARE_FLAGS_${level}})
        # Minutes a file: Clang optimising products that are unrolled and full of checks.
        if(PARE_SANITIZE AND CMAKE_CXX_COMPILER_ID MATCHES Clang AND source MATCHES "/linear_(avx512|amx)\\.cc$")
          list(APPEND flags -O0)
        endif()
        set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${flags}")
      endif()
    endforeach()
  endforeach()
endfunction()

# CUDA sources of a folder lie in its cuda/ subfolder: *.cu, and *.cc that call the toolkit. Builds without CUDA leave
# them out.
function(pare_glob_sources out)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  list(FILTER sources EXCLUDE REGEX "/main\\.cc$")
  if(PARE_CUDA)
    file(GLOB_RECURSE cuda_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cu)
    list(APPEND sources ${cuda_sources})
  else()
    list(FILTER sources EXCLUDE REGEX "/cuda/")
  endif()
  set(${out} ${sources} PARENT_SCOPE)
endfunction()

# With PARE_UNITY, modules marked UNITY compile eight files at a time: heavy headers are read once for all of them. The
# mark says that the files can be one, but for those under ALONE, which use a name that another file has too; plain
# builds show that each can stand alone.
function(pare_allow_unity target marked)
  if(PARE_UNITY AND marked)
    set_source_files_properties(${ARGN} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 8)
  endif()
endfunction()

# pare_module(NAME [UNITY [ALONE file...]] [DEPS module...] [LIBS system targets...] [PRIVATE_LIBS ...])
# Compiles every *.cc below the calling folder, programs (main.cc) excepted.
function(pare_module name)
  cmake_parse_arguments(ARG "UNITY" "" "ALONE;DEPS;LIBS;PRIVATE_LIBS" ${ARGN})
  pare_glob_sources(sources)
  if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    list(FILTER sources EXCLUDE REGEX "_(avx2|avx512|amx)\\.cc$")
  endif()
  set(deps ${ARG_DEPS})
  list(TRANSFORM deps PREPEND pare_)
  if(sources)
    pare_set_isa_flags(${sources})
    add_library(pare_${name} STATIC ${sources})
    pare_allow_unity(pare_${name} ${ARG_UNITY} ${ARG_ALONE})
    if(PARE_FUZZ AND name IN_LIST PARE_FUZZED_MODULES)
      target_compile_options(pare_${name} PRIVATE -fsanitize=fuzzer-no-link)
    endif()
    target_link_libraries(pare_${name} PUBLIC pare_options ${deps} ${ARG_LIBS} PRIVATE ${ARG_PRIVATE_LIBS})
    if(PARE_FAULT)
      file(GLOB_RECURSE headers ${CMAKE_CURRENT_SOURCE_DIR}/*.h)
      pare_seed_fault(pare_${name} ${sources} ${headers})
    endif()
  else()
    add_library(pare_${name} INTERFACE)
    target_link_libraries(pare_${name} INTERFACE pare_options ${deps} ${ARG_LIBS})
  endif()
endfunction()

# pare_test(NAME LABELS label... DEPS module... [PROCESSORS n]): every *_test.cc of the calling folder in one program,
# which keeps n processors busy (one where it does not say).
function(pare_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT;PROCESSORS" "DEPS;LIBS;LABELS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  if(PARE_CUDA)
    file(GLOB cuda_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cu)
    list(APPEND sources ${cuda_sources})
  endif()
  if(NOT sources)
    return()
  endif()
  set(deps ${ARG_DEPS})
  list(TRANSFORM deps PREPEND pare_)
  set(sanitized 0)
  if(PARE_SANITIZE)
    set(sanitized 1)
  endif()
  add_executable(test_${name} ${sources})
  target_link_libraries(test_${name} PRIVATE ${deps} ${ARG_LIBS} GTest::gtest GTest::gmock GTest::gtest_main)
  target_compile_definitions(test_${name} PRIVATE PARE_SOURCE_DIR="${PROJECT_SOURCE_DIR}"
    PARE_SANITIZED=${sanitized})
  target_compile_options(test_${name} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:${PARE_TEST_OPTIONS}>")
  add_test(NAME ${name} COMMAND test_${name})
  if("unit" IN_LIST ARG_LABELS OR "property" IN_LIST ARG_LABELS)
    add_dependencies(unit_tests test_${name})
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 600)
  endif()
  if(NOT ARG_PROCESSORS)
    set(ARG_PROCESSORS 1)
  endif()
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT}
    PROCESSORS ${ARG_PROCESSORS} SKIP_RETURN_CODE 77)
endfunction()
