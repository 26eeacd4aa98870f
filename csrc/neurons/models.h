#pragma once
// The list of all models: the operators and the core's own tests are generated from it. One line per model.

#include "coba_lif.h"
#include "iaf.h"
#include "izhikevich.h"
#include "li.h"
#include "li_box.h"
#include "lif.h"
#include "lif_adex.h"
#include "lif_box.h"
#include "lif_ex.h"
#include "lif_mc_refrac.h"
#include "lsnn.h"
#include "model.h"
#include "qif.h"
#include "refrac.h"

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
    LIF,                      //
    LI,                       //
    LSNN,                     //
    Izhikevich,               //
    CobaLIF,                  //
    LIBox,                    //
    IAF,                      //
    LIFBox,                   //
    LIFEx,                    //
    LIFAdEx,                  //
    Refrac<LIF>,              //
    Refrac<LIFAdEx>,          //
    LIFMCRefrac,              //
    QIF>;

}  // namespace norse_fast
