#include "test/paths.h"

namespace fulgurite::test {

const char* const kSourceDir = FULGURITE_SOURCE_DIR;
const char* const kTool = FULGURITE_TOOL;

}  // namespace fulgurite::test
