#include "nk.h"

typedef nk_pairs<scaling> neighbour_pairs;
