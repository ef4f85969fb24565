/* Elementary functions of vectors of 32-bit numbers; the coefficients are by dev/functions.py. */

INLINE V clamped(V a, float low, float high) {
  V c = pick(a > high, splat(high), a);
  return pick(c < low, splat(low), c);
}

INLINE V scaled(V a, M n) { return (V)((M)a + (n << 23)); }

/* exp(a) = 2^n (1 + p), |p| < 0.42 */
INLINE V exp_parts(V a, M *n) {
  const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
  V k = a * 1.44269504f + magic;
  *n = (M)k - (M)splat(magic);
  k -= magic;
  V r = a - k * 0.693359375f;
  r += k * 2.12194440e-4f;
  V q = splat(1.3901281e-3f);
  q = q * r + 8.36314037e-3f;
  q = q * r + 4.16668534e-2f;
  q = q * r + 1.66665773e-1f;
  q = q * r + 0.499999996f;
  return r + r * r * q;
}

INLINE V f_exp(V a) {
  M n;
  V p = exp_parts(clamped(a, -87.3365447f, 88.3762626f), &n);
  V out = scaled(p + 1.0f, n);
  out = pick(a < -87.3365447f, (V){0}, out);
  out = pick(a > 88.7228394f, splat(INFINITY), out);
  return pick(a != a, a, out);
}

INLINE V f_expm1(V a) {
  M n;
  V p = exp_parts(clamped(a, -20.0f, 88.3762626f), &n), one = scaled(splat(1.0f), n);
  V out = one * p + (one - 1.0f);
  out = pick(a > 88.7228394f, splat(INFINITY), out);
  return pick(a != a, a, out);
}

INLINE V f_sigmoid(V a) {
  M n;
  V p = exp_parts(clamped(-a, -87.3365447f, 87.3365447f), &n);
  return 1.0f / (1.0f + scaled(p + 1.0f, n));
}

/* a P(a^2) / Q(a^2) */
INLINE V f_tanh(V a) {
  V x = clamped(a, -9.0f, 9.0f), y = x * x;
  V p = splat(1.33549134e-8f), q = splat(7.77667287e-7f);
  p = p * y + 2.06093036e-5f;
  q = q * y + 3.28565848e-4f;
  p = p * y + 3.49560339e-3f;
  q = q * y + 2.58770423e-2f;
  p = p * y + 1.33810391e-1f;
  q = q * y + 4.67143548e-1f;
  p = p * y + 0.999999979f;
  q = q * y + 1.0f;
  return x * (p / q);
}

INLINE V f_erf(V a) {
  V x = clamped(a, -3.92f, 3.92f), y = x * x;
  V p = splat(2.0500331e-6f), q = splat(3.80907532e-5f);
  p = p * y + 2.84875154e-4f;
  q = q * y + 1.16250062e-3f;
  p = p * y + 3.7655151e-3f;
  q = q * y + 1.49690229e-2f;
  p = p * y + 5.27484075e-2f;
  q = q * y + 1.14108338e-1f;
  p = p * y + 1.90404810e-1f;
  q = q * y + 5.02074612e-1f;
  p = p * y + 1.12837915f;
  q = q * y + 1.0f;
  return x * (p / q);
}

/* a = 2^n (1 + f), sqrt(1/2) <= 1 + f < sqrt(2) */
INLINE V f_log(V a) {
  M bits = (M)a, n = ((bits - 0x3f3504f3) >> 23);
  V f = (V)(bits - (n << 23)) - 1.0f, k = __builtin_convertvector(n, V);
  V q = splat(7.03765677e-2f);
  q = q * f - 1.15146653e-1f;
  q = q * f + 1.16770356e-1f;
  q = q * f - 1.24201329e-1f;
  q = q * f + 1.42493173e-1f;
  q = q * f - 1.6668058e-1f;
  q = q * f + 2.0000715e-1f;
  q = q * f - 2.4999994e-1f;
  q = q * f + 3.33333312e-1f;
  V out = f * f * f * q + k * -2.12194440e-4f;
  out = f * f * -0.5f + out;
  out = (f + out) + k * 0.693359375f;
  out = pick(a == INFINITY, a, out);
  out = pick(a < 1.17549435e-38f, splat(-INFINITY), out);
  return pick((a < 0.0f) | (a != a), splat(NAN), out);
}

INLINE V f_log1p(V a) {
  V u = 1.0f + a, lost = a - (u - 1.0f);
  V out = f_log(u) + lost / u;
  out = pick(u == INFINITY, u, out);
  return pick(a == -1.0f, splat(-INFINITY), out);
}
