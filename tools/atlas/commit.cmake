# Writes OUTPUT, which says what commit SOURCE is at, unless that is said there already.
set(ATLAS_COMMIT "")
find_package(Git QUIET)
if(GIT_FOUND)
    execute_process(COMMAND ${GIT_EXECUTABLE} -C ${SOURCE} describe --always --dirty --abbrev=9 --exclude=*
        OUTPUT_VARIABLE ATLAS_COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
configure_file(${CMAKE_CURRENT_LIST_DIR}/commit.h.in ${OUTPUT} @ONLY)
