if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
    set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "Build type" FORCE)
endif()

option(ATLAS_BUILD_TESTS "Build unit and host tests" ON)
option(ATLAS_WERROR "Treat warnings as errors" ON)
set(ATLAS_SANITIZE "" CACHE STRING "Sanitizers for every target, as -fsanitize takes them (address,undefined or thread)")
option(ATLAS_COVERAGE "Instrument for line coverage" OFF)

# Inherited by every target through atlas_module/atlas_test.
add_library(atlas_flags INTERFACE)
target_compile_options(atlas_flags INTERFACE -Wall -Wextra -Wno-psabi $<$<BOOL:${ATLAS_WERROR}>:-Werror> -fno-math-errno)
if(ATLAS_SANITIZE)
    target_compile_options(atlas_flags INTERFACE -fsanitize=${ATLAS_SANITIZE} -fno-omit-frame-pointer)
    target_link_options(atlas_flags INTERFACE -fsanitize=${ATLAS_SANITIZE})
endif()
# What is compiled with counters is src/ alone (atlas_counted); what links it needs their library.
add_library(atlas_counted INTERFACE)
if(ATLAS_COVERAGE)
    target_compile_options(atlas_counted INTERFACE --coverage)
    target_link_options(atlas_flags INTERFACE --coverage)
endif()
