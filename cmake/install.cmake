# An installed copy for find_package(Fulgurite): headers under their room's path, the library, the package files.
include(CMakePackageConfigHelpers)

install(TARGETS fulgurite EXPORT FulguriteTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} FILE_SET HEADERS)
set(FULGURITE_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/Fulgurite)
install(EXPORT FulguriteTargets NAMESPACE Fulgurite:: DESTINATION ${FULGURITE_PACKAGE_DIR})
configure_package_config_file(cmake/FulguriteConfig.cmake.in FulguriteConfig.cmake INSTALL_DESTINATION ${FULGURITE_PACKAGE_DIR})
write_basic_package_version_file(FulguriteConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/FulguriteConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/FulguriteConfigVersion.cmake
        DESTINATION ${FULGURITE_PACKAGE_DIR})
