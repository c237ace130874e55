# Cross build for Sophgo's SoC boxes (SE5, SE7, SE9): aarch64, Ubuntu 20.04, glibc 2.31.
#
#     cmake -S . -B build-soc -DCMAKE_TOOLCHAIN_FILE=aarch64.cmake \
#           -DTARGET_ARCH=soc -DSDK=/path/to/soc-sdk
#
# SDK is the folder that the vendor's guides put together for cross builds: include/ and lib/ of
# libsophon, sophon-opencv and sophon-ffmpeg of the box's SDK. The compiler must not be newer than
# the box's C library: Ubuntu 20.04's GCC 9 (g++-9-aarch64-linux-gnu) fits; Debian 12's GCC 12 links
# against glibc 2.34, and what it makes does not start there.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
if(NOT CMAKE_CXX_COMPILER)
  find_program(CMAKE_CXX_COMPILER NAMES aarch64-linux-gnu-g++-9 aarch64-linux-gnu-g++ REQUIRED)
endif()
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES SDK)
list(APPEND CMAKE_FIND_ROOT_PATH ${SDK})
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY BOTH)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE BOTH)
