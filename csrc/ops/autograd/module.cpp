// The Python module of the autograd node: reads arguments straight from Python objects, without the dispatcher and its
// boxed values, which take longer than a small step.

#include <ATen/core/grad_mode.h>

#include "node.h"
#include "python_abi.h"

namespace norse_fast::autograd {
namespace {

bool is_readable(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
    case ScalarType::Double:
    case ScalarType::Half:
    case ScalarType::BFloat16:
      return true;
    case ScalarType::Long:
      // The product of an integer and dt has the default dtype.
      return c10::get_default_dtype_as_scalartype() == ScalarType::Float;
    default:
      return false;
  }
}

/// The tensor of a Python object, or null where kernels cannot read it.
const Tensor* plain_tensor(PyObject* object) {
  const auto* type = reinterpret_cast<PyObject*>(Py_TYPE(object));
  if (type != THPVariableClass && type != ParameterClass) return nullptr;
  const Tensor& t = reinterpret_cast<TensorObject*>(object)->tensor;
  return is_plain(t) && is_readable(t.scalar_type()) ? &t : nullptr;
}

/// What Neuron.__call__ in norse_fast/_kernels/neuron.py hands over, if the kernels can take it as it is.
class Reader {
 public:
  ForwardArguments arguments{};
  Tensor alpha;

  bool read(PyObject* input, PyObject* state, PyObject* params, PyObject* alpha_value, PyObject* dt,
            const Signature& model) {
    return read_number(dt, arguments.dt) && read_input(input) && read_state(state, model.state.size()) &&
           read_params(params, model.params.size()) && read_parameter(alpha_value, alpha);
  }

 private:
  static bool read_number(PyObject* object, double& number) {
    if (!PyFloat_CheckExact(object) && !PyLong_CheckExact(object)) return false;
    number = PyFloat_AsDouble(object);
    if (PyErr_Occurred()) throw python_error();
    return true;
  }

  bool read_input(PyObject* object) {
    const Tensor* t = plain_tensor(object);
    if (!t || t->scalar_type() == ScalarType::Long || !kernels_of(*t)) return false;
    if (arguments.sequence && t->dim() == 0) return false;
    arguments.input = *t;
    step_ = arguments.sequence ? t->sizes().slice(1) : t->sizes();
    compute_ = compute_type(*t);
    return true;
  }

  bool read_state(PyObject* tuple, size_t count) {
    if (!PyTuple_Check(tuple) || PyTuple_Size(tuple) != static_cast<Py_ssize_t>(count)) return false;
    arguments.state.resize(count);
    for (size_t k = 0; k < count; ++k) {
      Tensor& t = arguments.state[k];
      if (!read_tensor(PyTuple_GetItem(tuple, k), t)) return false;
      const bool shared = is_shared_state(t, static_cast<int64_t>(step_.size()));
      if (t.device() != arguments.input.device() && !(shared && t.is_cpu())) return false;
      if (!shared && (t.scalar_type() != compute_ || t.sizes() != step_)) return false;
    }
    return true;
  }

  bool read_params(PyObject* tuple, size_t count) {
    if (!PyTuple_Check(tuple) || PyTuple_Size(tuple) != static_cast<Py_ssize_t>(count)) return false;
    arguments.params.resize(count);
    for (size_t k = 0; k < count; ++k) {
      if (!read_parameter(PyTuple_GetItem(tuple, k), arguments.params[k])) return false;
    }
    return true;
  }

  bool read_parameter(PyObject* object, Tensor& parameter) const {
    return read_tensor(object, parameter) && fits(parameter);
  }

  /// A tensor, or a number as one.
  static bool read_tensor(PyObject* object, Tensor& tensor) {
    double number = 0;
    if (read_number(object, number)) {
      // Python numbers enter tensor arithmetic in double precision.
      tensor = at::detail::empty_cpu({}, ScalarType::Double);
      *tensor.mutable_data_ptr<double>() = number;
      return true;
    }
    const Tensor* t = plain_tensor(object);
    if (t) tensor = *t;
    return t;
  }

  /// Whether a parameter is one value that the host can read, or values for the trailing dimensions of a step.
  bool fits(const Tensor& t) const {
    if (t.dim() == 0) return t.is_cpu() || t.device() == arguments.input.device();
    return t.device() == arguments.input.device() && t.dim() <= static_cast<int64_t>(step_.size()) &&
           t.sizes() == step_.slice(step_.size() - t.dim()) &&
           (t.scalar_type() != ScalarType::Double || compute_ == ScalarType::Double);
  }

  at::IntArrayRef step_;
  ScalarType compute_ = ScalarType::Float;
};

/// An undefined tensor is None.
Object wrap(Tensor&& t) {
  if (t.defined()) return Object(checked(THPVariable_Wrap(std::move(t))));
  Py_INCREF(Py_None);
  return Object(Py_None);
}

Object as_tuple(std::vector<Tensor>&& tensors) {
  Object tuple(checked(PyTuple_New(static_cast<Py_ssize_t>(tensors.size()))));
  for (size_t k = 0; k < tensors.size(); ++k) {
    PyTuple_SetItem(tuple.get(), static_cast<Py_ssize_t>(k), wrap(std::move(tensors[k])).release());
  }
  return tuple;
}

bool is_true(PyObject* object) {
  const int truth = PyObject_IsTrue(object);
  if (truth < 0) throw python_error();
  return truth != 0;
}

/// The function that Python sees: runs `body`, and makes its exceptions errors of Python.
template <class Body>
PyObject* guard(const Body& body) {
  try {
    return body();
  } catch (...) {
    torch::translate_exception_to_python(std::current_exception());
    return nullptr;
  }
}

/// run(model, input, state, params, alpha, surrogate, dt, sequence, record, output): (output, states), or None where
/// the arguments must be prepared first, or be run by operators, as for surrogates that Python computes.
PyObject* run_python(PyObject*, PyObject* const* args, Py_ssize_t count) {
  return guard([&]() -> PyObject* {
    TORCH_CHECK_TYPE(count == 10, "run: got ", count, " arguments, expected 10");
    const Model model{PyLong_AsSize_t(args[0])};
    TORCH_CHECK_INDEX(model.index < kernels_of(at::kCPU)->count, "run: got the number of no model");
    const int64_t surrogate = PyLong_Check(args[5]) ? PyLong_AsLongLong(args[5]) : -1;
    const bool record = is_true(args[8]);
    Reader reader;
    reader.arguments.record = record;
    reader.arguments.sequence = is_true(args[7]);
    reader.arguments.kind = PyLong_AsLongLong(args[9]);
    if (PyErr_Occurred()) throw python_error();
    if (!is_plain_thread() || !reader.read(args[1], args[2], args[3], args[4], args[6], model.signature()))
      Py_RETURN_NONE;
    if (at::GradMode::is_enabled() && (surrogate < 0 || reader.alpha.requires_grad())) Py_RETURN_NONE;

    ForwardResults results;
    {
      // Work that takes long lets other threads of Python run. Short work does not: taking the lock again may take
      // longer.
      constexpr int64_t kLong = 1 << 12;
      std::optional<WithoutPython> no_python;
      if (reader.arguments.input.numel() > kLong) no_python.emplace();
      results = run(model, std::move(reader.arguments), reader.alpha, surrogate);
    }
    const Object states = as_tuple(std::move(record ? results.trace : results.final_state));
    const Object output = wrap(std::move(results.output));
    return PyTuple_Pack(2, output.get(), states.get());
  });
}

/// model(name): the number of a model.
PyObject* model_python(PyObject*, PyObject* name) {
  return guard([&]() -> PyObject* {
    const Object bytes(checked(PyUnicode_AsUTF8String(name)));
    const std::string wanted(PyBytes_AsString(bytes.get()));
    const KernelTable& kernels = *kernels_of(at::kCPU);
    for (size_t k = 0; k < kernels.count; ++k) {
      if (wanted == kernels.models[k].signature.name) return PyLong_FromSize_t(k);
    }
    TORCH_CHECK_VALUE(false, "model: got '", wanted, "', which is none");
  });
}

/// set_kernels(device type, address): makes the kernels for a device known, whose address their operator returns.
PyObject* set_kernels_python(PyObject*, PyObject* args) {
  return guard([&]() -> PyObject* {
    const char* type = nullptr;
    long long address = 0;
    if (!PyArg_ParseTuple(args, "sL", &type, &address)) return nullptr;
    set_kernels(at::Device(type).type(), reinterpret_cast<const KernelTable*>(address));
    Py_RETURN_NONE;
  });
}

/// The function that Python gave to differentiate. Never released: that would need Python.
PyObject* differentiate_function = nullptr;

std::vector<Tensor> differentiate(const Pass& pass) {
  const WithPython python;
  const auto count = static_cast<Py_ssize_t>(pass.wanted.size());
  const Object wanted(checked(PyTuple_New(count)));
  for (Py_ssize_t k = 0; k < count; ++k) PyTuple_SetItem(wanted.get(), k, PyBool_FromLong(pass.wanted[k]));
  const Object operands = as_tuple(std::vector<Tensor>(pass.operands)),
               grads = as_tuple(std::vector<Tensor>(pass.grads));
  const Object options(checked(Py_BuildValue(
      "(sLdNNLOOO)", pass.model, static_cast<long long>(pass.surrogate), pass.dt, PyBool_FromLong(pass.sequence),
      PyBool_FromLong(pass.record), static_cast<long long>(pass.output), operands.get(), grads.get(), wanted.get())));
  const Object found(checked(PyObject_CallObject(differentiate_function, options.get())));
  std::vector<Tensor> results(pass.wanted.size());
  for (Py_ssize_t k = 0; k < count; ++k) {
    const Object gradient(checked(PySequence_GetItem(found.get(), k)));
    if (gradient.get() != Py_None) results[k] = reinterpret_cast<TensorObject*>(gradient.get())->tensor;
  }
  return results;
}

PyObject* refuse_derivatives_of_operators_python(PyObject*, PyObject*) {
  return guard([]() -> PyObject* {
    refuse_derivatives_of_operators();
    Py_RETURN_NONE;
  });
}

/// set_differentiate(function): `_differentiate_call` in norse_fast/_kernels/autograd.py.
PyObject* set_differentiate_python(PyObject*, PyObject* function) {
  Py_INCREF(function);
  differentiate_function = function;
  set_differentiate(&differentiate);
  Py_RETURN_NONE;
}

unsigned long main_thread = 0;

/// Throws where the user wants the present call to end.
void check_interrupt() {
  // Other threads would wait for the interpreter in vain.
  if (PyThread_get_thread_ident() != main_thread) return;
  const WithPython python;
  if (PyErr_CheckSignals() != 0) throw python_error();
}

/// watch_interrupts(ident of the main thread): ends long calls of that thread after Ctrl-C.
PyObject* watch_interrupts_python(PyObject*, PyObject* ident) {
  main_thread = PyLong_AsUnsignedLong(ident);
  if (PyErr_Occurred()) return nullptr;
  set_interrupt_check(&check_interrupt);
  Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"run", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&run_python)), METH_FASTCALL, nullptr},
    {"model", &model_python, METH_O, nullptr},
    {"set_kernels", &set_kernels_python, METH_VARARGS, nullptr},
    {"refuse_derivatives_of_operators", &refuse_derivatives_of_operators_python, METH_NOARGS, nullptr},
    {"set_differentiate", &set_differentiate_python, METH_O, nullptr},
    {"watch_interrupts", &watch_interrupts_python, METH_O, nullptr},
    {}};

PyModuleDef module{PyModuleDef_HEAD_INIT, "_C_autograd", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace
}  // namespace norse_fast::autograd

PyMODINIT_FUNC PyInit__C_autograd() { return PyModule_Create(&norse_fast::autograd::module); }
