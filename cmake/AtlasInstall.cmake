# What `cmake --install` puts in place, and the .deb that CPack makes of it.
include(GNUInstallDirs)

# cpack packs what was built; tests are not a part of it.
set(CMAKE_SKIP_INSTALL_ALL_DEPENDENCY ON)

# Not ggml's own backend folder: ggml loads only names it knows from there, and a private folder survives its upgrades. Programs find
# the library through GGML_BACKEND_PATH, which the launcher sets.
# A wheel has libraries beside it that a system may not have.
set_target_properties(ggml-atlas PROPERTIES INSTALL_RPATH "$ORIGIN")
install(TARGETS ggml-atlas EXPORT ggml-atlas-targets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/atlas)
if(TARGET atlas)
    install(TARGETS atlas RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
if(TARGET atlas-eval)
    install(TARGETS atlas-eval atlas-convert RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
if(EXISTS ${PROJECT_SOURCE_DIR}/include/atlas)
    install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/atlas DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
endif()

# For programs that use the C API: find_package(ggml-atlas), target ggml-atlas::ggml-atlas; or pkg-config ggml-atlas.
include(CMakePackageConfigHelpers)
install(EXPORT ggml-atlas-targets NAMESPACE ggml-atlas:: FILE ggml-atlas-config.cmake DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/ggml-atlas)
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/ggml-atlas-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/ggml-atlas-config-version.cmake DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/ggml-atlas)
# Its short name: find_package(atlas), target atlas::atlas.
file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/atlas-config.cmake
    "include(\${CMAKE_CURRENT_LIST_DIR}/../ggml-atlas/ggml-atlas-config.cmake)\n"
    "if(NOT TARGET atlas::atlas)\n    add_library(atlas::atlas ALIAS ggml-atlas::ggml-atlas)\nendif()\n")
configure_file(${CMAKE_CURRENT_BINARY_DIR}/ggml-atlas-config-version.cmake ${CMAKE_CURRENT_BINARY_DIR}/atlas-config-version.cmake COPYONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/atlas-config.cmake ${CMAKE_CURRENT_BINARY_DIR}/atlas-config-version.cmake
    DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/atlas)
file(RELATIVE_PATH prefix_from_pkgconfig /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(${CMAKE_CURRENT_LIST_DIR}/ggml-atlas.pc.in ${CMAKE_CURRENT_BINARY_DIR}/ggml-atlas.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/ggml-atlas.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

install(FILES ${PROJECT_SOURCE_DIR}/README.md DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/ggml-atlas)
# Debian's name for the licence file.
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/ggml-atlas RENAME copyright)
install(FILES ${PROJECT_SOURCE_DIR}/tools/grafana/atlas.json DESTINATION ${CMAKE_INSTALL_DATADIR}/ggml-atlas/grafana)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/docs/ DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/ggml-atlas/docs FILES_MATCHING PATTERN "*.md")

set(CPACK_PACKAGE_NAME ggml-atlas)
set(CPACK_PACKAGE_VENDOR "Atlas")
set(CPACK_PACKAGE_CONTACT "The Atlas authors <atlas@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "attention and KV cache for unmodified llama.cpp programs")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_GENERATOR DEB)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION libs)
# Asks dpkg which packages hold the libraries we link, libggml among them.
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "llama.cpp-tools (>= 0.7)")
set(CPACK_DEBIAN_PACKAGE_DESCRIPTION
    "A ggml backend that any llama.cpp program loads through GGML_BACKEND_PATH. It takes over attention and the KV cache.")
include(CPack)
