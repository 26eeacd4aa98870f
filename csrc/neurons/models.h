#pragma once
// The list of all models: both backends and the core's own tests are generated from it. One line per model.

#include "coba_lif.h"
#include "izhikevich.h"
#include "li.h"
#include "lif.h"
#include "lif_mc_refrac.h"
#include "lsnn.h"
#include "model.h"

namespace norse_fast {

template <class... Models>
struct ModelList {
  static constexpr int kCount = sizeof...(Models);

  /// Calls f(model) with an empty instance of every model, in order.
  template <class F>
  static constexpr void for_each(F f) {
    (f(Models{}), ...);
  }
};

using AllModels = ModelList<  //
    LIF<false>,               //
    LIF<true>,                //
    LI,                       //
    LSNN<false>,              //
    LSNN<true>,               //
    Izhikevich,               //
    CobaLIF,                  //
    LIFMCRefrac>;

}  // namespace norse_fast
