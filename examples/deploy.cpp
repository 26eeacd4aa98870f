// A layer without Python: runs a package of AOTInductor piece by piece, with its state. docs/deployment.md builds it.
//
//     deploy PACKAGE LIBRARY
//
// LIBRARY is norse_fast/_C_cpu.so, which has the kernels. Prints the spikes of each piece and the last potentials.

#include <ATen/ATen.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <iostream>

int main(int count, char** arguments) {
  if (count != 3) {
    std::cerr << "usage: deploy PACKAGE LIBRARY\n";
    return 2;
  }
  // As it is loaded, it registers the operators that the package calls.
  if (!dlopen(arguments[2], RTLD_NOW | RTLD_GLOBAL)) {
    std::cerr << dlerror() << '\n';
    return 1;
  }
  try {
    torch::inductor::AOTIModelPackageLoader layer(arguments[1]);
    const auto x = 2 * at::linspace(0, 1, 100 * 4).reshape({100, 1, 4});
    auto v = at::zeros({1, 4}), i = at::zeros({1, 4});
    for (const auto& piece : x.split(30)) {
      const auto results = layer.run({piece, v, i});
      std::cout << results[0].sum().item<float>() << '\n';
      v = results[1];
      i = results[2];
    }
    std::cout << v << '\n';
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
