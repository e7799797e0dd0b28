#pragma once
// Where the tests find the project's files and the command. Constants of one source, so that no other source changes with the
// place of the build.

namespace fulgurite::test {

extern const char* const kSourceDir;
extern const char* const kTool;

}  // namespace fulgurite::test
