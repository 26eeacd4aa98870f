// Compiled, but part of no library: python_abi.h and torch's own headers say the same of what both declare.

#include <torch/csrc/autograd/python_variable.h>

#include <cstddef>
#include <type_traits>

using TorchsError = python_error;

#define python_error OwnError
#include "python_abi.h"
#undef python_error

namespace norse_fast::autograd {

#pragma GCC diagnostic ignored "-Winvalid-offsetof"
static_assert(offsetof(TensorObject, tensor) == offsetof(THPVariable, cdata));
static_assert(std::is_same_v<decltype(TensorObject::tensor), decltype(THPVariable::cdata)>);
static_assert(sizeof(OwnError) == sizeof(TorchsError) && std::is_base_of_v<std::exception, TorchsError>);
static_assert(offsetof(OwnError, type) == offsetof(TorchsError, type));
static_assert(offsetof(OwnError, value) == offsetof(TorchsError, value));
static_assert(offsetof(OwnError, traceback) == offsetof(TorchsError, traceback));
static_assert(offsetof(OwnError, message) == offsetof(TorchsError, message));

}  // namespace norse_fast::autograd
