// Products of 16 x 16 factors, by mma.sync and by wgmma.

namespace emulator {

inline float number(uint32_t pair, unsigned i, bool half) {
  uint16_t bits = uint16_t(pair >> i % 2 * 16);
  return half ? metal::half_code::unpack(bits) : metal::bfloat_code::unpack(bits);
}

// Rows lane / 4 and lane / 4 + 8 of a, 16 x 16, of which lanes have two neighbours of one row, two
// of the other, then those 8 columns on.
template <typename Words>
inline void gather(float (&rows)[2][16], bool half, Words words) {
  for (unsigned i = 0; i < 2; ++i) {
    for (unsigned k = 0; k < 16; ++k) {
      rows[i][k] = number(words(lane() / 4 * 4 + k % 8 / 2)[i + k / 8 * 2], k, half);
    }
  }
}

// d += a * b, 16 x 8 sums of 16 x 16 and 16 x 8 factors. A lane holds two neighbours of d in row
// lane / 4 and two in row lane / 4 + 8; of b, by columns, two neighbours of column lane / 4, then
// those 8 rows on.
inline void multiply_add(bool half, float* const (&sums)[4], const uint32_t (&a)[4],
                         const uint32_t (&b)[2], Site site) {
  struct Factors {
    uint32_t a[4], b[2];
  };
  Lanes<Factors> lanes(site, Factors{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}});
  float left[2][16];
  Factors of;
  gather(left, half, [&](unsigned lane) { return (of = lanes[lane]).a; });
  for (unsigned i = 0; i < 4; ++i) {
    for (unsigned k = 0; k < 16; ++k) {
      uint32_t pair = lanes[(lane() % 4 * 2 + i % 2) * 4 + k % 8 / 2].b[k / 8];
      *sums[i] += left[i / 2][k] * number(pair, k, half);
    }
  }
}

// A lane's part of d += a * b of a warp, 16 x N sums: of each eight columns of d what mma.sync has,
// and a as there. b is in shared memory. It is made when it is waited for, no sooner: then a and b
// have to be what they were.
struct Product {
  bool half;
  const uint32_t* left[4];
  uint64_t right;
  std::vector<float*> sums;
  uint64_t factors;

  // Eight neighbours of a column of b, in shared memory as a descriptor says: columns are rows of
  // 128 bytes there, eight of them so many bytes from the next eight.
  const uint16_t* right_at(unsigned column, unsigned k) const {
    uint32_t address = uint32_t(right & 0x3fff) * 16 + k * 2;
    address += column / 8 * uint32_t(right >> 32 & 0x3fff) * 16 + column % 8 * 128;
    return (const uint16_t*)shared_at(address ^ (address >> 3 & 0x70), 16, 16);
  }

  // Of sum i, whose columns are those of each four.
  unsigned column(unsigned i) const { return i / 4 * 8 + lane() % 4 * 2 + i % 2; }

  // A number that tells whether anything of a or b is another.
  uint64_t hashed() const {
    uint64_t hash = 0;
    for (const uint32_t* word : left) hash = (hash + *word) * 0x9e3779b97f4a7c15;
    for (unsigned i = 0; i < sums.size(); i += i % 4 ? 3 : 1) {
      for (unsigned k = 0; k < 16; k += 8) {
        uint64_t words[2];
        memcpy(words, right_at(column(i), k), sizeof words);
        for (uint64_t word : words) hash = (hash + word) * 0x9e3779b97f4a7c15;
      }
    }
    return hash;
  }

  void add(const float (&rows)[2][16]) const {
    for (unsigned i = 0; i < sums.size(); ++i) {
      for (unsigned k = 0; k < 16; ++k) {
        *sums[i] += rows[i % 4 / 2][k] * number(right_at(column(i), k & 8)[k % 8], 0, half);
      }
    }
  }
};

// What a thread began.
struct Products {
  bool fenced = false;
  std::vector<Product> open;
  std::vector<std::vector<Product>> groups;

  void begin(Product product) {
    if (!fenced) hooks->fail("wgmma: a fence has to come first");
    if (product.right >> 46 != 1 << 16) hooks->fail("wgmma: only rows of 128 bytes are known here");
    product.factors = product.hashed();
    open.push_back(product);
  }

  void commit() {
    groups.push_back(std::move(open));
    open.clear();
    fenced = false;
  }

  // For every group.
  void wait(Site site) {
    Lanes<Products*> lanes(site, this);
    for (size_t group = 0; group < groups.size(); ++group) {
      for (size_t i = 0; i < groups[group].size(); ++i) {
        const Product& product = groups[group][i];
        if (product.hashed() != product.factors) {
          hooks->fail("wgmma: a fragment changed before the product was done");
        }
        float rows[2][16];
        uint32_t words[4];
        gather(rows, product.half, [&](unsigned lane) {
          const Product& other = lanes[lane]->groups.at(group).at(i);
          for (unsigned k = 0; k < 4; ++k) words[k] = *other.left[k];
          return words;
        });
        product.add(rows);
      }
    }
    // Others still need this thread's factors.
    hooks->barrier(site, false, false);
    groups.clear();
  }
};

}  // namespace emulator
