#pragma once
// What the node needs of Python, and of the part of torch that knows Python, by Python's stable ABI: so one library
// serves every Python from 3.10 on. torch's own headers need all of Python's ABI, through pybind11; layout.cpp compares
// what is declared here with them.

#include <ATen/core/Tensor.h>
#include <Python.h>

#include <exception>
#include <string>
#include <utility>

/// Python's tensor class, and that of parameters.
extern PyObject* THPVariableClass;
extern PyObject* ParameterClass;

PyObject* THPVariable_Wrap(at::TensorBase&& t);
PyObject* THPVariable_Wrap(const at::TensorBase& t);

namespace torch {
/// Makes an exception the error of Python.
void translate_exception_to_python(const std::exception_ptr& exception);
}  // namespace torch

namespace norse_fast::autograd {

/// Holds the interpreter.
class WithPython {
 public:
  WithPython() : state_(PyGILState_Ensure()) {}
  ~WithPython() { PyGILState_Release(state_); }
  WithPython(const WithPython&) = delete;

 private:
  PyGILState_STATE state_;
};

/// Lets other threads have it.
class WithoutPython {
 public:
  WithoutPython() : thread_(PyEval_SaveThread()) {}
  ~WithoutPython() { PyEval_RestoreThread(thread_); }
  WithoutPython(const WithoutPython&) = delete;

 private:
  PyThreadState* thread_;
};

}  // namespace norse_fast::autograd

/// The present error of Python, which torch knows by this name and takes from thread to thread.
struct python_error : public std::exception {
  python_error() : message("python_error") {
    const norse_fast::autograd::WithPython python;
    PyErr_Fetch(&type, &value, &traceback);
  }
  ~python_error() override {
    const norse_fast::autograd::WithPython python;
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
  }
  python_error(const python_error&) = delete;

  const char* what() const noexcept override { return message.c_str(); }

  PyObject* type = nullptr;
  PyObject* value = nullptr;
  PyObject* traceback = nullptr;
  std::string message;
};

namespace norse_fast::autograd {

/// Python's object of a tensor.
struct TensorObject {
  PyObject ob_base;
  at::Tensor tensor;
};

inline PyObject* checked(PyObject* object) {
  if (!object) throw python_error();
  return object;
}

/// A reference of ours to an object.
class Object {
 public:
  explicit Object(PyObject* object = nullptr) : object_(object) {}
  Object(Object&& other) noexcept : object_(other.release()) {}
  ~Object() { Py_XDECREF(object_); }

  PyObject* get() const { return object_; }
  PyObject* release() { return std::exchange(object_, nullptr); }

 private:
  PyObject* object_;
};

}  // namespace norse_fast::autograd
