# Writes OUTPUT, which says what commit SOURCE is at, unless that is said there already. Nothing is said of sources that lie in another
# project's repository: the commit would be that one's.
set(ATLAS_COMMIT "")
find_package(Git QUIET)
if(GIT_FOUND)
    execute_process(COMMAND ${GIT_EXECUTABLE} -C ${SOURCE} rev-parse --show-prefix
        OUTPUT_VARIABLE prefix OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE failed ERROR_QUIET)
    if(NOT failed AND prefix STREQUAL "")
        execute_process(COMMAND ${GIT_EXECUTABLE} -C ${SOURCE} describe --always --dirty --abbrev=9 --exclude=*
            OUTPUT_VARIABLE ATLAS_COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    endif()
endif()
configure_file(${CMAKE_CURRENT_LIST_DIR}/commit.h.in ${OUTPUT} @ONLY)
