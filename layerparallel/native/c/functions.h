/* Elementary functions of vectors of 32-bit numbers. */

INLINE V scaled(V a, M n) { return (V)((M)a + (n << 23)); }

/* exp(a) - 1 = 2^n (1 + p) - 1: n, and p */
INLINE V exp_parts(V a, M *n) {
  const float magic = 12582912.0f; /* 1.5 * 2^23 */
  V k = a * 1.44269504f + magic;
  *n = (M)k - (M)splat(magic);
  k -= magic;
  V r = a - k * 0.693359375f;
  r += k * 2.12194440e-4f;
  V q = splat(1.9841270e-4f);
  q = q * r + 1.3888889e-3f;
  q = q * r + 8.3333333e-3f;
  q = q * r + 4.1666667e-2f;
  q = q * r + 1.6666667e-1f;
  q = q * r + 0.5f;
  return r + r * r * q;
}

INLINE V f_exp(V a) {
  V c = pick(a > 88.3762626f, splat(88.3762626f), a);
  c = pick(c < -87.3365447f, splat(-87.3365447f), c);
  M n;
  V p = exp_parts(c, &n);
  V out = scaled(p + 1.0f, n);
  out = pick(a < -87.3365447f, (V){0}, out);
  out = pick(a > 88.7228394f, splat(INFINITY), out);
  return pick(a != a, a, out);
}

INLINE V f_expm1(V a) {
  V c = pick(a > 88.3762626f, splat(88.3762626f), a);
  c = pick(c < -20.0f, splat(-20.0f), c);
  M n;
  V p = exp_parts(c, &n), one = scaled(splat(1.0f), n);
  V out = one * p + (one - 1.0f);
  out = pick(a > 88.7228394f, splat(INFINITY), out);
  return pick(a != a, a, out);
}

INLINE V f_sigmoid(V a) { return 1.0f / (1.0f + f_exp(-a)); }

INLINE V f_tanh(V a) {
  V c = pick(a > 9.1f, splat(9.1f), a);
  c = pick(c < -9.1f, splat(-9.1f), c);
  M n;
  V p = exp_parts(c + c, &n), one = scaled(splat(1.0f), n);
  V e = one * p + (one - 1.0f);
  return pick(a != a, a, e / (e + 2.0f));
}

LIBM1(log, logf) LIBM1(log1p, log1pf) LIBM1(erf, erff)
