/* Elementary functions of vectors of 32-bit numbers; the coefficients are by dev/functions.py. */

/* out where a is at most `high`, infinity where it is more, NaN where it is none. */
INLINE V up_to(V a, float high, V out) { return pick(a <= high, out, a + INFINITY); }

INLINE V scaled(V a, M n) { return (V)((M)a + (n << 23)); }

INLINE V signed_as(V out, V a) { return (V)((M)out | ((M)a & (M)splat(-0.0f))); }

/* exp(a) = 2^n (1 + p), |p| < 0.42, for |a| < 89; k log(2) is taken off in two parts, the first exactly */
INLINE V exp_parts(V a, M *n) {
  const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
  V k = a * 1.44269502f + magic;
  *n = (M)k - (M)splat(magic);
  k -= magic;
  V r = a - k * 0.693145752f;
  r -= k * 1.42860677e-6f;
  V q = splat(1.38848007e-3f);
  q = q * r + 8.36592168e-3f;
  q = q * r + 4.16670293e-2f;
  q = q * r + 1.66665494e-1f;
  q = q * r + 0.5f;
  return r + r * r * q;
}

#define SMALLEST -87.3365402f /* exp of less is denormal */
#define LARGEST 88.7228317f   /* exp of more is infinite */

INLINE V f_exp(V a) {
  M n;
  V p = exp_parts(a, &n);
  return pick(a < SMALLEST, (V){0}, up_to(a, LARGEST, scaled(p + 1.0f, n)));
}

INLINE V f_expm1(V a) {
  M n;
  V p = exp_parts(pick(a < -20.0f, splat(-20.0f), a), &n), one = scaled(splat(1.0f), n);
  V out = pick(a > 80.0f, scaled(p + 1.0f, n), one * p + (one - 1.0f)); /* 2^128 is no number */
  return signed_as(up_to(a, LARGEST, out), a);
}

INLINE V f_sigmoid(V a) {
  M n;
  V x = pick(a > 80.0f, splat(-80.0f), -a), p = exp_parts(x, &n);
  return 1.0f / (1.0f + up_to(x, LARGEST, scaled(p + 1.0f, n)));
}

/* From an odd function of |a| that is above 1 where a is large, or by errors of rounding. */
INLINE V up_to_one(V out, V a) { return signed_as(pick(out > 1.0f, splat(1.0f), out), a); }

INLINE V f_tanh(V a) {
  V x = f_abs(a);
  x = pick(x > 9.5f, splat(9.5f), x);
  V y = x * x, y2 = y * y;
  V p = y * 2.2035083e-5f + 3.7342804e-3f, q = y * 3.5112913e-4f + 2.7636774e-2f;
  p = y2 * 1.4295866e-8f + p;
  q = y2 * 8.3193896e-7f + q;
  p = p * y2 + (y * 0.142886758f + 1.06769764f);
  q = q * y2 + (y * 0.498785824f + 1.06769764f);
  return up_to_one(x * (p / q), a);
}

INLINE V f_erf(V a) {
  V x = f_abs(a);
  x = pick(x > 4.1f, splat(4.1f), x);
  V y = x * x, y2 = y * y;
  V p = y * 2.3389996e-6f + 3.2558353e-4f, q = y * 4.3492306e-5f + 1.3302469e-3f;
  p = p * y2 + (y * 4.3114712e-3f + 6.029719e-2f);
  q = q * y2 + (y * 1.7121544e-2f + 0.130470172f);
  p = p * y2 + (y * 0.217780247f + 1.28928638f);
  q = q * y2 + (y * 0.573868811f + 1.1426003f);
  return up_to_one(x * (p / q), a);
}

/* a = 2^n (1 + f), sqrt(1/2) <= 1 + f < sqrt(2) */
INLINE V f_log(V a) {
  M bits = (M)a, n = ((bits - 0x3f3504f3) >> 23);
  V f = (V)(bits - (n << 23)) - 1.0f, k = __builtin_convertvector(n, V);
  V q = splat(6.73077852e-2f);
  q = q * f - 1.16542019e-1f;
  q = q * f + 1.18847907e-1f;
  q = q * f - 1.24094404e-1f;
  q = q * f + 1.42204642e-1f;
  q = q * f - 1.66677803e-1f;
  q = q * f + 2.00020686e-1f;
  q = q * f - 2.50000119e-1f;
  q = q * f + 3.33333135e-1f;
  V out = f * f * f * q + k * 1.42860677e-6f;
  out = f * f * -0.5f + out;
  out = (f + out) + k * 0.693145752f;
  out = pick(a == INFINITY, a, out);
  out = pick(a < 1.17549435e-38f, splat(-INFINITY), out);
  return pick((a < 0.0f) | (a != a), splat(NAN), out);
}

INLINE V f_log1p(V a) {
  V u = 1.0f + a, lost = a - (u - 1.0f);
  V out = f_log(u) + lost / u;
  out = pick(u == INFINITY, u, out);
  return signed_as(pick(a == -1.0f, splat(-INFINITY), out), a);
}
