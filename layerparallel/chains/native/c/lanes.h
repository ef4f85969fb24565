/* Vectors of samples: every value is an array of V, one lane a sample, T vectors a tile.
 *
 * Defined before this file is read: REAL (float or double), VB (bytes of a vector), T, TRANSPOSE.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef REAL real;
#if IS_FLOAT
typedef int32_t ireal;
#else
typedef int64_t ireal;
#endif
typedef real V __attribute__((vector_size(VB), may_alias));
typedef ireal M __attribute__((vector_size(VB), may_alias));
enum { W = VB / sizeof(real), L = W * T };
#define INLINE static inline __attribute__((always_inline))

/* ---- denormals: flushed while a kernel runs ---- */

#if defined(__x86_64__)
INLINE unsigned flush_on(void) {
  unsigned before = __builtin_ia32_stmxcsr();
  __builtin_ia32_ldmxcsr(before | 0x8040);
  return before;
}
INLINE void flush_off(unsigned before) { __builtin_ia32_ldmxcsr(before); }
#elif defined(__aarch64__)
INLINE uint64_t flush_on(void) {
  uint64_t before;
  __asm__ volatile("mrs %0, fpcr" : "=r"(before));
  __asm__ volatile("msr fpcr, %0" ::"r"(before | (1u << 24)));
  return before;
}
INLINE void flush_off(uint64_t before) { __asm__ volatile("msr fpcr, %0" ::"r"(before)); }
#else
INLINE unsigned flush_on(void) { return 0; }
INLINE void flush_off(unsigned before) { (void)before; }
#endif

/* ---- functions of single elements ---- */

INLINE V splat(real a) { return a - (V){0}; }
INLINE V pick(M m, V a, V b) { return (V)(((M)a & m) | ((M)b & ~m)); }
INLINE M flag(int on) { return (M){0} - (ireal)(on != 0); }

#define LIBM1(name, call)                            \
  INLINE V f_##name(V a) {                           \
    V out;                                           \
    for (int l = 0; l < W; l++) out[l] = call(a[l]); \
    return out;                                      \
  }
#define LIBM2(name, call)                                  \
  INLINE V f_##name(V a, V b) {                            \
    V out;                                                 \
    for (int l = 0; l < W; l++) out[l] = call(a[l], b[l]); \
    return out;                                            \
  }
#if IS_FLOAT
#define C(name) name##f
#else
#define C(name) name
#endif
LIBM1(log2, C(log2)) LIBM1(log10, C(log10)) LIBM1(sin, C(sin)) LIBM1(cos, C(cos)) LIBM1(tan, C(tan))
LIBM1(sinh, C(sinh)) LIBM1(cosh, C(cosh)) LIBM1(asin, C(asin)) LIBM1(acos, C(acos)) LIBM1(atan, C(atan))
LIBM1(asinh, C(asinh)) LIBM1(acosh, C(acosh)) LIBM1(atanh, C(atanh)) LIBM1(erfc, C(erfc))
LIBM1(floor, C(floor)) LIBM1(ceil, C(ceil)) LIBM1(round, C(rint)) LIBM1(trunc, C(trunc))
LIBM1(exp2, C(exp2)) LIBM1(sqrt, C(sqrt))
LIBM2(pow, C(pow)) LIBM2(atan2, C(atan2)) LIBM2(fmod, C(fmod)) LIBM2(copysign, C(copysign))
LIBM2(hypot, C(hypot))

INLINE V f_neg(V a) { return -a; }
INLINE V f_abs(V a) { return (V)((M)a & ~(M)splat((real)-0.0)); }
INLINE V f_add(V a, V b) { return a + b; }
INLINE V f_sub(V a, V b) { return a - b; }
INLINE V f_mul(V a, V b) { return a * b; }
INLINE V f_div(V a, V b) { return a / b; }
INLINE V f_reciprocal(V a) { return (real)1 / a; }
INLINE V f_rsqrt(V a) { return (real)1 / f_sqrt(a); }
INLINE V f_maximum(V a, V b) { return pick((a > b) | (a != a), a, b); }
INLINE V f_minimum(V a, V b) { return pick((a < b) | (a != a), a, b); }
INLINE V f_relu(V a) { return pick(a <= (real)0, (V){0}, a); }
INLINE V f_number(M a) { return (V)(a & (M)splat(1)); }
INLINE V f_sign(V a) { return f_number(a > (real)0) - f_number(a < (real)0); }
INLINE M f_gt(V a, V b) { return a > b; }
INLINE M f_ge(V a, V b) { return a >= b; }
INLINE M f_lt(V a, V b) { return a < b; }
INLINE M f_le(V a, V b) { return a <= b; }
INLINE M f_eq(V a, V b) { return a == b; }
INLINE M f_ne(V a, V b) { return a != b; }
INLINE M f_and(M a, M b) { return a & b; }
INLINE M f_or(M a, M b) { return a | b; }
INLINE M f_xor(M a, M b) { return a ^ b; }
INLINE M f_not(M a) { return ~a; }
INLINE V f_where(M m, V a, V b) { return pick(m, a, b); }

/* two vectors' lanes, in the order of the numbers that follow */
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (M){__VA_ARGS__})
#endif
INLINE void transpose(V *x) { TRANSPOSE(x) }

#if IS_FLOAT
#include "functions.h"
#else
LIBM1(exp, exp) LIBM1(expm1, expm1) LIBM1(log, log) LIBM1(log1p, log1p) LIBM1(tanh, tanh) LIBM1(erf, erf)
INLINE V f_sigmoid(V a) { return (real)1 / ((real)1 + f_exp(-a)); }
#endif

/* ---- between memory, a sample after the other, and tiles ---- */

typedef real U __attribute__((vector_size(VB), may_alias, aligned(sizeof(real))));

INLINE void load_tile(V *restrict x, const real *restrict a, int64_t from, int64_t batch, int64_t size) {
  real *to = (real *)x;
  if (from + L <= batch) {
    int64_t i = 0;
    for (; i + W <= size; i += W)
      for (int t = 0; t < T; t++) {
        V rows[W];
        for (int r = 0; r < W; r++) rows[r] = *(const U *)(a + (from + t * W + r) * size + i);
        transpose(rows);
        for (int r = 0; r < W; r++) x[(i + r) * T + t] = rows[r];
      }
    for (; i < size; i++)
      for (int l = 0; l < L; l++) to[i * L + l] = a[(from + l) * size + i];
  } else /* lanes without a sample repeat the last one */
    for (int64_t i = 0; i < size; i++)
      for (int l = 0; l < L; l++) {
        int64_t s = from + l < batch ? from + l : batch - 1;
        to[i * L + l] = a[s * size + i];
      }
}

INLINE void store_tile(real *restrict a, const V *restrict x, int64_t from, int64_t batch, int64_t size) {
  const real *values = (const real *)x;
  int64_t lanes = from + L <= batch ? L : batch - from, i = 0;
  if (lanes == L)
    for (; i + W <= size; i += W)
      for (int t = 0; t < T; t++) {
        V rows[W];
        for (int r = 0; r < W; r++) rows[r] = x[(i + r) * T + t];
        transpose(rows);
        for (int r = 0; r < W; r++) *(U *)(a + (from + t * W + r) * size + i) = rows[r];
      }
  for (; i < size; i++)
    for (int64_t l = 0; l < lanes; l++) a[(from + l) * size + i] = values[i * L + l];
}

/* x + a, x - a, of the samples there are; in the others nothing is added */
INLINE void add_tile(V *restrict x, const real *restrict a, real sign, int64_t from, int64_t batch, int64_t size) {
  real *to = (real *)x;
  int64_t lanes = from + L <= batch ? L : batch - from;
  for (int64_t l = 0; l < lanes; l++)
    for (int64_t i = 0; i < size; i++) to[i * L + l] += sign * a[(from + l) * size + i];
}

/* lanes without a sample become 0 */
INLINE void clear_rest(V *restrict x, int64_t from, int64_t batch, int64_t size) {
  real *to = (real *)x;
  for (int64_t l = batch - from; l < L; l++)
    for (int64_t i = 0; i < size; i++) to[i * L + l] = 0;
}

INLINE void fill_rest(V *restrict x, int64_t from, int64_t batch, int64_t size) {
  real *to = (real *)x;
  for (int64_t l = batch - from; l < L; l++)
    for (int64_t i = 0; i < size; i++) to[i * L + l] = to[i * L + batch - from - 1];
}

/* ---- products and sums ---- */

INLINE real hsum(V a) {
  real half[W];
  memcpy(half, &a, sizeof a);
#pragma GCC unroll 8
  for (int w = W / 2; w > 0; w /= 2)
#pragma GCC unroll 16
    for (int l = 0; l < w; l++) half[l] += half[l + w];
  return half[0];
}

INLINE V tsum(const V *a) {
  V out = a[0];
  for (int t = 1; t < T; t++) out += a[t];
  return out;
}

/* out[r so] = sum_k a[r sm + k sk] x[k kx], R rows at once */
#define ROWS(R)                                                                                            \
  INLINE void rows_##R(V *restrict out, int so, const real *restrict a, int sm, int sk,                    \
                       const V *restrict x, int kx, int K) {                                               \
    V acc[R * T];                                                                                          \
    _Pragma("GCC unroll 64") for (int r = 0; r < R * T; r++) acc[r] = (V){0};                              \
    for (int k = 0; k < K; k++) {                                                                          \
      _Pragma("GCC unroll 16") for (int r = 0; r < R; r++) {                                               \
        V w = splat(a[r * sm + k * sk]);                                                                   \
        _Pragma("GCC unroll 4") for (int t = 0; t < T; t++) acc[r * T + t] += w * x[k * kx * T + t];       \
      }                                                                                                    \
    }                                                                                                      \
    _Pragma("GCC unroll 16") for (int r = 0; r < R; r++)                                                   \
      _Pragma("GCC unroll 4") for (int t = 0; t < T; t++) out[r * so * T + t] = acc[r * T + t];            \
  }
ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(8)

INLINE void matvec(V *restrict out, int so, const real *restrict a, int sm, int sk, const V *restrict x, int kx,
                   int P, int K) {
  int m = 0;
  for (; m + 8 <= P; m += 8) rows_8(out + m * so * T, so, a + m * sm, sm, sk, x, kx, K);
  if (m + 4 <= P) {
    rows_4(out + m * so * T, so, a + m * sm, sm, sk, x, kx, K);
    m += 4;
  }
  if (m + 3 == P) rows_3(out + m * so * T, so, a + m * sm, sm, sk, x, kx, K);
  if (m + 2 == P) rows_2(out + m * so * T, so, a + m * sm, sm, sk, x, kx, K);
  if (m + 1 == P) rows_1(out + m * so * T, so, a + m * sm, sm, sk, x, kx, K);
}

/* out[i so] = sum_k a[i sa + k ka] b[i sb + k kb], of values of every sample */
INLINE void dots(V *restrict out, int so, const V *restrict a, int sa, int ka, const V *restrict b, int sb,
                 int kb, int N, int K) {
  for (int i = 0; i < N; i++)
    for (int t = 0; t < T; t++) {
      V sum = {0};
      for (int k = 0; k < K; k++) sum += a[(i * sa + k * ka) * T + t] * b[(i * sb + k * kb) * T + t];
      out[i * so * T + t] = sum;
    }
}

/* out[i so] = sum_k a[i sa + k ka] b[i sb + k kb], of values that all samples have in common */
INLINE void uniform_dots(real *restrict out, int so, const real *restrict a, int sa, int ka,
                         const real *restrict b, int sb, int kb, int N, int K) {
  for (int i = 0; i < N; i++) {
    real sum = 0;
    for (int k = 0; k < K; k++) sum += a[i * sa + k * ka] * b[i * sb + k * kb];
    out[i * so] = sum;
  }
}

/* acc[p Q + q] += a[p sa] b[q sb], summed over the vectors of a tile but not over lanes */
INLINE void outer(V *restrict acc, const V *restrict a, int sa, const V *restrict b, int sb, int P, int Q) {
  for (int p = 0; p < P; p++)
    for (int q = 0; q < Q; q++) {
      V s = acc[p * Q + q];
#pragma GCC unroll 4
      for (int t = 0; t < T; t++) s += a[p * sa * T + t] * b[q * sb * T + t];
      acc[p * Q + q] = s;
    }
}

/* the same summed over lanes, too; b is turned, so that its elements lie side by side: rows of QP >= Q */
#define TURNED(R)                                                                                             \
  INLINE void turned_##R(real *restrict acc, const real *restrict a, int sa, const real *restrict b, int QP) { \
    for (int q = 0; q < QP; q += W) {                                                                         \
      V s[R];                                                                                                 \
      _Pragma("GCC unroll 16") for (int r = 0; r < R; r++) s[r] = (V){0};                                     \
      for (int l = 0; l < L; l++) {                                                                           \
        V x = *(const V *)(b + l * QP + q);                                                                   \
        _Pragma("GCC unroll 16") for (int r = 0; r < R; r++) s[r] += splat(a[r * sa * L + l]) * x;            \
      }                                                                                                       \
      _Pragma("GCC unroll 16") for (int r = 0; r < R; r++) *(V *)(acc + r * QP + q) += s[r];                  \
    }                                                                                                         \
  }
TURNED(1) TURNED(8)

/* rows of samples: out[l QP + q] = b[q sb][l], and 0 for q >= Q */
INLINE void turn(real *restrict out, const V *restrict b, int sb, int Q, int QP) {
  for (int q = 0; q < QP; q += W)
    for (int t = 0; t < T; t++) {
      V x[W];
      for (int r = 0; r < W; r++) x[r] = q + r < Q ? b[(q + r) * sb * T + t] : (V){0};
      transpose(x);
      for (int r = 0; r < W; r++) *(V *)(out + (t * W + r) * QP + q) = x[r];
    }
}

INLINE void wide_outer(real *restrict acc, const V *restrict a, int sa, const real *restrict b, int P, int QP) {
  int p = 0;
  const real *rows = (const real *)a;
  for (; p + 8 <= P; p += 8) turned_8(acc + p * QP, rows + p * sa * L, sa, b, QP);
  for (; p < P; p++) turned_1(acc + p * QP, rows + p * sa * L, sa, b, QP);
}

#define S1(name) \
  INLINE real s_##name(real a) { return f_##name(splat(a))[0]; }
#define S2(name) \
  INLINE real s_##name(real a, real b) { return f_##name(splat(a), splat(b))[0]; }
#define SC(name, op) \
  INLINE int s_##name(real a, real b) { return a op b; }
S1(log2) S1(log10) S1(sin) S1(cos) S1(tan) S1(sinh) S1(cosh) S1(asin) S1(acos) S1(atan) S1(asinh) S1(acosh)
S1(atanh) S1(erfc) S1(floor) S1(ceil) S1(round) S1(trunc) S1(exp2) S1(sqrt) S2(pow) S2(atan2) S2(fmod)
S2(copysign) S2(hypot) S1(abs) S1(reciprocal) S1(rsqrt) S2(maximum) S2(minimum) S1(relu) S1(sign) S1(exp)
S1(expm1) S1(log) S1(log1p) S1(tanh) S1(erf) S1(sigmoid)
SC(gt, >) SC(ge, >=) SC(lt, <) SC(le, <=) SC(eq, ==) SC(ne, !=)
INLINE real s_neg(real a) { return -a; }
INLINE real s_add(real a, real b) { return a + b; }
INLINE real s_sub(real a, real b) { return a - b; }
INLINE real s_mul(real a, real b) { return a * b; }
INLINE real s_div(real a, real b) { return a / b; }
INLINE real s_number(int a) { return a; }
INLINE int s_and(int a, int b) { return a & b; }
INLINE int s_or(int a, int b) { return a | b; }
INLINE int s_xor(int a, int b) { return a ^ b; }
INLINE int s_not(int a) { return !a; }
INLINE real s_where(int m, real a, real b) { return m ? a : b; }
