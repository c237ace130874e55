/* Kernels of the native executor (native.py). Compiled on first use for the machine at hand.
 *
 * Layout: images x rows x columns x channels. A quantized tensor is kept as bytes, "offset binary":
 * byte = stored integer + offset, offset 128 for int8 and 0 for uint8, so that every comparison and
 * every dot product is unsigned; channels are padded to a multiple of four with zeros in the
 * weights. Float tensors are float32 and unpadded.
 *
 * Exactness. Integer convolutions accumulate in int32: the largest sum, 255 * 127 * 3328, needs 27
 * bits (native.py checks each layer). With VNNI the dot product of four bytes goes straight into an
 * int32 lane without intermediate saturation; without it the operands are widened to int16 and
 * vpmaddwd is used, because vpmaddubsw saturates. Requantization: see Requant. Float convolutions
 * follow a chip (lane_tile, fused_tile) or the vendor's interpreter (float_tile): one fused
 * multiply-add per element, in the order (channel, row, column) and in the blocks that native.py
 * gives. -ffp-contract=off keeps the compiler from fusing others.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

enum { F32, F16, BF16 };
#define WIDEST_CHANNELS 4096 /* of the buffers on the stack; native.py checks both */
#define WIDEST_ROW 32768
#define WIDEST_LANES 64

typedef struct {
    int32_t kind, src[4], dst, scratch, n_src;
    int32_t i[32];
    float f[4];
    const void *p[11];
} Op;

#define INLINE static inline __attribute__((always_inline))
typedef uint32_t __attribute__((aligned(1), may_alias)) word32;

/* ---- vectors -------------------------------------------------------------------------------- */

#if defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define WIDE 1
#define VL 16
typedef __m512i ivec;
typedef __m512 fvec;
INLINE ivec iload(const void *p) { return _mm512_loadu_si512(p); }
INLINE fvec fload(const float *p) { return _mm512_loadu_ps(p); }
INLINE fvec fzero(void) { return _mm512_setzero_ps(); }
INLINE fvec fbroadcast(const float *p) { return _mm512_set1_ps(*p); }
INLINE fvec ffma(fvec a, fvec b, fvec c) { return _mm512_fmadd_ps(a, b, c); }
INLINE fvec fadd(fvec a, fvec b) { return _mm512_add_ps(a, b); }
INLINE fvec frelu(fvec a) { return _mm512_max_ps(a, _mm512_setzero_ps()); }
INLINE fvec fmul(fvec a, fvec b) { return _mm512_mul_ps(a, b); }
INLINE fvec flargest(fvec a, fvec b) {
    return _mm512_range_ps(a, b, 3 | 8); /* 3: the larger magnitude, 8: without its sign */
}
INLINE ivec itruncated(fvec a) { return _mm512_cvttps_epi32(a); }
INLINE ivec iadd(ivec a, ivec b) { return _mm512_add_epi32(a, b); }
INLINE ivec izero(void) { return _mm512_setzero_si512(); }
INLINE fvec ffloat(ivec a) { return _mm512_cvtepi32_ps(a); }
INLINE void fstore(float *p, fvec v, int lanes) {
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << lanes) - 1), v);
}
INLINE fvec fload_part(const float *p, int lanes) {
    return _mm512_maskz_loadu_ps((__mmask16)((1u << lanes) - 1), p);
}
INLINE ivec ibroadcast(const void *p) {
    int32_t word;
    memcpy(&word, p, 4);
    return _mm512_set1_epi32(word);
}
#if defined(__AVX512VNNI__)
#define KSTEP 4
typedef uint8_t elem;
/* Not the intrinsic: GCC 12 copies and spills its accumulator around every use. */
INLINE ivec dot(ivec acc, ivec x, ivec w) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w));
    return acc;
}
#else
#define KSTEP 2
typedef int16_t elem;
INLINE ivec dot(ivec acc, ivec x, ivec w) {
    return _mm512_add_epi32(acc, _mm512_madd_epi16(x, w));
}
#endif

#elif defined(__AVX2__) && defined(__FMA__)
#define VL 8
typedef __m256i ivec;
typedef __m256 fvec;
INLINE ivec iload(const void *p) { return _mm256_loadu_si256(p); }
INLINE fvec fload(const float *p) { return _mm256_loadu_ps(p); }
INLINE fvec fzero(void) { return _mm256_setzero_ps(); }
INLINE fvec fbroadcast(const float *p) { return _mm256_set1_ps(*p); }
INLINE fvec ffma(fvec a, fvec b, fvec c) { return _mm256_fmadd_ps(a, b, c); }
INLINE fvec fadd(fvec a, fvec b) { return _mm256_add_ps(a, b); }
INLINE fvec frelu(fvec a) { return _mm256_max_ps(a, _mm256_setzero_ps()); }
INLINE fvec fmul(fvec a, fvec b) { return _mm256_mul_ps(a, b); }
INLINE fvec flargest(fvec a, fvec b) {
    return _mm256_max_ps(a, _mm256_andnot_ps(_mm256_set1_ps(-0.0f), b));
}
INLINE ivec itruncated(fvec a) { return _mm256_cvttps_epi32(a); }
INLINE ivec iadd(ivec a, ivec b) { return _mm256_add_epi32(a, b); }
INLINE ivec izero(void) { return _mm256_setzero_si256(); }
INLINE fvec ffloat(ivec a) { return _mm256_cvtepi32_ps(a); }
INLINE ivec ibroadcast(const void *p) {
    int32_t word;
    memcpy(&word, p, 4);
    return _mm256_set1_epi32(word);
}
#if defined(__AVXVNNI__)
#define KSTEP 4
typedef uint8_t elem;
INLINE ivec dot(ivec acc, ivec x, ivec w) { return _mm256_dpbusd_avx_epi32(acc, x, w); }
#else
#define KSTEP 2
typedef int16_t elem;
INLINE ivec dot(ivec acc, ivec x, ivec w) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(x, w));
}
#endif

#else
/* Plain C: vectors as small arrays, which compilers map to whatever the machine has. */
#define VL 8
#define KSTEP 2
typedef int16_t elem;
typedef struct { int32_t v[VL]; } ivec;
typedef struct { float v[VL]; } fvec;
#define PLAIN 1
INLINE fvec fload(const float *p) { fvec r; memcpy(&r, p, sizeof r); return r; }
INLINE fvec fzero(void) { fvec r; memset(&r, 0, sizeof r); return r; }
INLINE fvec fbroadcast(const float *p) {
    fvec r;
    for (int j = 0; j < VL; j++) r.v[j] = *p;
    return r;
}
INLINE fvec ffma(fvec a, fvec b, fvec c) {
    for (int j = 0; j < VL; j++) c.v[j] = fmaf(a.v[j], b.v[j], c.v[j]);
    return c;
}
INLINE fvec fadd(fvec a, fvec b) { for (int j = 0; j < VL; j++) a.v[j] += b.v[j]; return a; }
INLINE fvec frelu(fvec a) {
    for (int j = 0; j < VL; j++) a.v[j] = a.v[j] > 0 ? a.v[j] : 0;
    return a;
}
INLINE fvec fmul(fvec a, fvec b) { for (int j = 0; j < VL; j++) a.v[j] *= b.v[j]; return a; }
INLINE fvec flargest(fvec a, fvec b) {
    for (int j = 0; j < VL; j++) a.v[j] = a.v[j] > fabsf(b.v[j]) ? a.v[j] : fabsf(b.v[j]);
    return a;
}
INLINE ivec itruncated(fvec a) {
    ivec r;
    for (int j = 0; j < VL; j++) r.v[j] = (int32_t)a.v[j];
    return r;
}
INLINE ivec iadd(ivec a, ivec b) { for (int j = 0; j < VL; j++) a.v[j] += b.v[j]; return a; }
INLINE ivec izero(void) { ivec r; memset(&r, 0, sizeof r); return r; }
INLINE fvec ffloat(ivec a) {
    fvec r;
    for (int j = 0; j < VL; j++) r.v[j] = (float)a.v[j];
    return r;
}
INLINE ivec iload(const void *p) { ivec r; memcpy(&r, p, sizeof r); return r; }
INLINE ivec ibroadcast(const void *p) {
    ivec r;
    for (int j = 0; j < VL; j++) memcpy(&r.v[j], p, 4);
    return r;
}
INLINE ivec dot(ivec acc, ivec x, ivec w) {
    int16_t a[2 * VL], b[2 * VL];
    memcpy(a, &x, sizeof a);
    memcpy(b, &w, sizeof b);
    for (int j = 0; j < VL; j++) acc.v[j] += a[2 * j] * b[2 * j] + a[2 * j + 1] * b[2 * j + 1];
    return acc;
}
#endif

#if !defined(WIDE)
INLINE void fstore(float *p, fvec v, int lanes) { memcpy(p, &v, sizeof(float) * (size_t)lanes); }
INLINE fvec fload_part(const float *p, int lanes) {
    fvec v = fzero();
    memcpy(&v, p, sizeof(float) * (size_t)lanes);
    return v;
}
#endif

/* Lanes per vector, elements per dot product: native.py packs the weights accordingly. */
int32_t vector_lanes(void) { return VL; }
int32_t dot_step(void) { return KSTEP; }
const char *instruction_set(void) {
#if defined(WIDE) && KSTEP == 4
    return "AVX-512 VNNI";
#elif defined(WIDE)
    return "AVX-512";
#elif !defined(PLAIN) && KSTEP == 4
    return "AVX-VNNI";
#elif !defined(PLAIN)
    return "AVX2";
#else
    return "plain C";
#endif
}

/* ---- rounding to 16-bit floats -------------------------------------------------------------- */

INLINE float bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    bits += 0x7fffu + ((bits >> 16) & 1u);
    bits &= 0xffff0000u;
    memcpy(&x, &bits, 4);
    return x;
}

#if !defined(__F16C__)
/* Half to even: adding and subtracting 2**13 ulp-scaled powers; subnormals use a fixed quantum. */
INLINE float f16(float x) {
    float magnitude = fabsf(x), quantum, rounded;
    int exponent;
    if (magnitude == 0) return x;
    frexpf(magnitude, &exponent);
    quantum = ldexpf(1.0f, exponent < -13 ? -24 : exponent - 11);
    rounded = rintf(magnitude / quantum) * quantum;
    if (rounded > 65504.0f) rounded = INFINITY;
    return copysignf(rounded, x);
}
#endif

static void round_storage(float *x, long n, int storage) {
    long j = 0;
    if (storage == BF16) {
        for (; j < n; j++) x[j] = bf16(x[j]);
    } else if (storage == F16) {
#if defined(__F16C__)
        for (; j + 8 <= n; j += 8)
            _mm256_storeu_ps(x + j, _mm256_cvtph_ps(_mm256_cvtps_ph(_mm256_loadu_ps(x + j), 0)));
        for (; j < n; j++) x[j] = _cvtsh_ss(_cvtss_sh(x[j], 0));
#else
        for (; j < n; j++) x[j] = f16(x[j]);
#endif
    }
}

INLINE float round_half_away(float x) {
    float whole = truncf(x);
    return whole + (fabsf(x - whole) >= 0.5f ? copysignf(1.0f, x) : 0.0f);
}

/* ---- convolution of bytes ------------------------------------------------------------------- */

/* Constants of the requantization, each [padded output channels].
 *
 * The short way (`line` set). x = v * m / 2**s with |v| < 2**24 and m < 2**24 is v times a float32
 * that holds m / 2**s exactly. Rounding down, fma(v, m / 2**s, 1.5 * 2**22 + 1/2) is the largest
 * multiple of one half not above x + 1/2 + 1.5 * 2**22, because floats between 2**22 and 2**23 are
 * the multiples of one half; its bits, shifted right once, are floor(x + 1/2). One rounding, and
 * the one that is wanted: no threshold can be missed. native.py checks the three bounds.
 *
 * The long way: 64-bit integers with AVX-512, else float64 (exact below 2**53, also checked).
 *
 * `away` rounds ties of negative products down, away from zero.
 */
typedef struct {
    const int32_t *bias, *multiplier, *shift, *least, *most;
    const int64_t *half;
    const double *factor;
    const float *line;
    int32_t low, high, add, away;
} Requant;

#define LINE_START 6291456.5f /* 1.5 * 2**22 + 1/2 */
#define LINE_BITS 0x4ac00000  /* bits of 1.5 * 2**22 */

#if defined(WIDE)
INLINE ivec on_line(ivec acc, const Requant *q, long c) {
    __m512 t = _mm512_fmadd_round_ps(_mm512_cvtepi32_ps(acc), fload(q->line + c),
                                     _mm512_set1_ps(LINE_START),
                                     _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    __m512i start = _mm512_set1_epi32(LINE_BITS - 2 * q->add);
    return _mm512_srai_epi32(_mm512_sub_epi32(_mm512_castps_si512(t), start), 1);
}
#elif !defined(PLAIN)
INLINE ivec on_line(ivec acc, const Requant *q, long c) {
    /* convolve_bytes has set the rounding mode */
    __m256 t = _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc), fload(q->line + c),
                               _mm256_set1_ps(LINE_START));
    __m256i start = _mm256_set1_epi32(LINE_BITS - 2 * q->add);
    return _mm256_srai_epi32(_mm256_sub_epi32(_mm256_castps_si256(t), start), 1);
}
#endif

#if defined(WIDE)
INLINE ivec less_if_negative(ivec product, ivec half) {
    __mmask8 which = _mm512_movepi64_mask(product) & _mm512_test_epi64_mask(half, half);
    return _mm512_mask_sub_epi64(product, which, product, _mm512_set1_epi64(1));
}
#endif

INLINE void requant_store(uint8_t *out, ivec acc, const Requant *q, long c, int lanes) {
#if defined(WIDE)
    __m512i v;
    if (q->line) {
        v = on_line(acc, q, c);
    } else {
        v = _mm512_max_epi32(acc, iload(q->least + c));
        v = _mm512_min_epi32(v, iload(q->most + c));
        __m512i m = iload(q->multiplier + c), s = iload(q->shift + c);
        __m512i even = _mm512_mul_epi32(v, m);
        __m512i odd = _mm512_mul_epi32(_mm512_srli_epi64(v, 32), _mm512_srli_epi64(m, 32));
        /* half is stored as the eight even lanes, then the eight odd ones */
        if (q->away) { /* one less of what is negative, where a half is added */
            even = less_if_negative(even, iload(q->half + c));
            odd = less_if_negative(odd, iload(q->half + c + 8));
        }
        even = _mm512_add_epi64(even, iload(q->half + c));
        odd = _mm512_add_epi64(odd, iload(q->half + c + 8));
        even = _mm512_srav_epi64(even, _mm512_and_si512(s, _mm512_set1_epi64(63)));
        odd = _mm512_srav_epi64(odd, _mm512_srli_epi64(s, 32));
        v = _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
        v = _mm512_add_epi32(v, _mm512_set1_epi32(q->add));
    }
    v = _mm512_max_epi32(v, _mm512_set1_epi32(q->low));
    v = _mm512_min_epi32(v, _mm512_set1_epi32(q->high));
    _mm_mask_storeu_epi8(out, (__mmask16)((1u << lanes) - 1), _mm512_cvtepi32_epi8(v));
#else
#if !defined(PLAIN)
    if (q->line) {
        __m256i v = on_line(acc, q, c);
        v = _mm256_max_epi32(v, _mm256_set1_epi32(q->low));
        v = _mm256_min_epi32(v, _mm256_set1_epi32(q->high));
        __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
        words = _mm_packus_epi16(words, words);
        if (lanes == VL)
            _mm_storel_epi64((__m128i *)out, words);
        else
            memcpy(out, &words, (size_t)lanes);
        return;
    }
#endif
    int32_t v[VL];
    memcpy(v, &acc, sizeof v);
    int32_t r[VL];
    for (int j = 0; j < VL; j++) {
        int32_t x = v[j] > q->least[c + j] ? v[j] : q->least[c + j];
        x = x < q->most[c + j] ? x : q->most[c + j];
        double product = (double)x * q->factor[c + j];
        int32_t y = (int32_t)(q->away && product < 0 ? ceil(product - 0.5) : floor(product + 0.5));
        y += q->add;
        y = y > q->low ? y : q->low;
        r[j] = y < q->high ? y : q->high;
    }
    for (int j = 0; j < lanes; j++) out[j] = (uint8_t)r[j];
#endif
}

#if defined(WIDE)
/* Four vectors at once; the saturating packs do the clipping, so only for results in 0..255. */
INLINE void requant_store_64(uint8_t *out, ivec a, ivec b, ivec c, ivec d, const Requant *q,
                             long at) {
    const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    a = on_line(a, q, at), b = on_line(b, q, at + VL);
    c = on_line(c, q, at + 2 * VL), d = on_line(d, q, at + 3 * VL);
    __m512i bytes = _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
    _mm512_storeu_si512(out, _mm512_permutexvar_epi32(order, bytes));
}
#endif

/* A tile is NV vectors of output channels for MP pixels, with one named variable for each vector:
 * arrays of vectors end up on the stack. V2(F, m) is F(0, m) F(1, m); M2(F) is F(0) F(1). */
#define V1(F, m) F(0, m)
#define V2(F, m) V1(F, m) F(1, m)
#define V3(F, m) V2(F, m) F(2, m)
#define V4(F, m) V3(F, m) F(3, m)
#define V5(F, m) V4(F, m) F(4, m)
#define M1(F) F(0)
#define M4(F) M1(F) F(1) F(2) F(3)
#define M5(F) M4(F) F(4)
#define M6(F) M5(F) F(5)
#define M8(F) M6(F) F(6) F(7)
#define M12(F) M8(F) F(8) F(9) F(10) F(11)

#define BYTE_START(v, m) ivec a##v##_##m = iload(q->bias + c + v * VL);
#define BYTE_WEIGHT(v, nv) ivec w##v = iload(weights + (g * nv + v) * (long)sizeof(ivec));
#define BYTE_DOT(v, m) a##v##_##m = dot(a##v##_##m, b, w##v);
#define BYTE_STORE(v, m)                                                                          \
    requant_store(out + m * out_step + v * VL, a##v##_##m, q, c + v * VL,                         \
                  valid - v * VL < VL ? valid - v * VL : VL);

/* Four or five vectors: the first four in one go where the packs' clipping is the right one. */
#define STORE_1(m) V1(BYTE_STORE, m)
#define STORE_2(m) V2(BYTE_STORE, m)
#define STORE_3(m) V3(BYTE_STORE, m)
#if defined(WIDE)
#define STORE_4(m)                                                                                \
    if (together)                                                                                 \
        requant_store_64(out + m * out_step, a0_##m, a1_##m, a2_##m, a3_##m, q, c);               \
    else {                                                                                        \
        V4(BYTE_STORE, m)                                                                         \
    }
#define STORE_5(m) STORE_4(m) BYTE_STORE(4, m)
#endif

#define BYTE_TILE(NV, MP)                                                                         \
    static void byte_tile_##NV##_##MP(const elem *x, long step, const int8_t *weights,            \
                                      const int32_t *offsets, long groups, const Requant *q,      \
                                      long c, uint8_t *out, long out_step, int valid,             \
                                      int together) {                                             \
        M##MP(BYTE_START_##NV)                                                                    \
        for (long g = 0; g < groups; g++) {                                                       \
            const elem *xg = x + offsets[g];                                                      \
            V##NV(BYTE_WEIGHT, NV)                                                                \
            M##MP(BYTE_DOT_##NV)                                                                  \
        }                                                                                         \
        (void)together;                                                                           \
        M##MP(STORE_##NV)                                                                         \
    }
#define BYTE_START_1(m) V1(BYTE_START, m)
#define BYTE_START_2(m) V2(BYTE_START, m)
#define BYTE_START_3(m) V3(BYTE_START, m)
#define BYTE_START_4(m) V4(BYTE_START, m)
#define BYTE_START_5(m) V5(BYTE_START, m)
#define BYTE_PIXEL(m, V) { ivec b = ibroadcast(xg + m * step); V(BYTE_DOT, m) }
#define BYTE_DOT_1(m) BYTE_PIXEL(m, V1)
#define BYTE_DOT_2(m) BYTE_PIXEL(m, V2)
#define BYTE_DOT_3(m) BYTE_PIXEL(m, V3)
#define BYTE_DOT_4(m) BYTE_PIXEL(m, V4)
#define BYTE_DOT_5(m) BYTE_PIXEL(m, V5)

/* The same for floats, one block of the reduction: the result is added to what is there. */
#define FLOAT_START(v, m) fvec a##v##_##m = fzero();
#define FLOAT_WEIGHT(v, nv) fvec w##v = fload(weights + (g * nv + v) * VL);
#define FLOAT_DOT(v, m) a##v##_##m = ffma(b, w##v, a##v##_##m);
#define FLOAT_STORE(v, m)                                                                         \
    float_store(out + m * out_step + v * VL, a##v##_##m, begin, bias ? bias + v * VL : 0, relu,   \
                valid - v * VL < VL ? valid - v * VL : VL);
#define FLOAT_TILE(NV, MP)                                                                        \
    static void float_tile_##NV##_##MP(const float *x, long step, const float *weights,           \
                                       const int32_t *offsets, long begin, long end,              \
                                       const float *bias, int relu, float *out, long out_step,    \
                                       int valid) {                                               \
        M##MP(FLOAT_START_##NV)                                                                   \
        for (long g = begin; g < end; g++) {                                                      \
            const float *xg = x + offsets[g];                                                     \
            V##NV(FLOAT_WEIGHT, NV)                                                               \
            M##MP(FLOAT_DOT_##NV)                                                                 \
        }                                                                                         \
        M##MP(FLOAT_STORE_##NV)                                                                   \
    }
#define FLOAT_START_1(m) V1(FLOAT_START, m)
#define FLOAT_START_2(m) V2(FLOAT_START, m)
#define FLOAT_START_3(m) V3(FLOAT_START, m)
#define FLOAT_START_4(m) V4(FLOAT_START, m)
#define FLOAT_START_5(m) V5(FLOAT_START, m)
#define FLOAT_PIXEL(m, V) { fvec b = fbroadcast(xg + m * step); V(FLOAT_DOT, m) }
#define FLOAT_DOT_1(m) FLOAT_PIXEL(m, V1)
#define FLOAT_DOT_2(m) FLOAT_PIXEL(m, V2)
#define FLOAT_DOT_3(m) FLOAT_PIXEL(m, V3)
#define FLOAT_DOT_4(m) FLOAT_PIXEL(m, V4)
#define FLOAT_DOT_5(m) FLOAT_PIXEL(m, V5)
#define FLOAT_STORE_1(m) V1(FLOAT_STORE, m)
#define FLOAT_STORE_2(m) V2(FLOAT_STORE, m)
#define FLOAT_STORE_3(m) V3(FLOAT_STORE, m)
#define FLOAT_STORE_4(m) V4(FLOAT_STORE, m)
#define FLOAT_STORE_5(m) V5(FLOAT_STORE, m)

INLINE void float_store(float *out, fvec r, long begin, const float *bias, int relu, int lanes) {
    if (begin) r = fadd(fload_part(out, lanes), r);
    if (bias) r = fadd(r, fload(bias));
    if (relu) r = frelu(r);
    fstore(out, r, lanes);
}

/* A chip's sum in lanes (convolution.ChipSums): each part is a lane, products and sums rounded. */
#define MOST_LANES 4
#define LANE_START(v, m) fvec a##v##_##m = begin ? fload(begin + v * VL) : fzero();
#define LANE_DOT(v, m) a##v##_##m = fadd(a##v##_##m, fmul(b, w##v));
#define LANE_KEEP(v, m) lane[v][m] = a##v##_##m;
#define LANE_TILE(NV, MP)                                                                         \
    static void lane_tile_##NV##_##MP(const float *x, long step, const float *weights,            \
                                      const int32_t *offsets, const int32_t *starts, int lanes,   \
                                      int biased, const float *bias, int relu, float *out,        \
                                      long out_step, int valid) {                                 \
        fvec kept[MOST_LANES][NV][MP];                                                            \
        for (int part = 0; part < lanes; part++) {                                                \
            const float *begin = part == biased ? bias : 0;                                       \
            fvec(*lane)[MP] = kept[part];                                                         \
            M##MP(LANE_START_##NV)                                                                \
            for (long g = starts[part]; g < starts[part + 1]; g++) {                              \
                const float *xg = x + offsets[g];                                                 \
                V##NV(FLOAT_WEIGHT, NV)                                                           \
                M##MP(LANE_DOT_##NV)                                                              \
            }                                                                                     \
            M##MP(LANE_KEEP_##NV)                                                                 \
        }                                                                                         \
        for (int m = 0; m < MP; m++)                                                              \
            for (int v = 0; v < NV; v++) {                                                        \
                fvec r = lanes == 2 ? fadd(kept[0][v][m], kept[1][v][m])                          \
                                    : fadd(fadd(kept[0][v][m], kept[2][v][m]),                    \
                                           fadd(kept[1][v][m], kept[3][v][m]));                   \
                float_store(out + m * out_step + v * VL, r, 0,                                    \
                            biased < 0 && bias ? bias + v * VL : 0, relu,                         \
                            valid - v * VL < VL ? valid - v * VL : VL);                           \
            }                                                                                     \
    }
#define LANE_START_1(m) V1(LANE_START, m)
#define LANE_START_2(m) V2(LANE_START, m)
#define LANE_START_3(m) V3(LANE_START, m)
#define LANE_START_4(m) V4(LANE_START, m)
#define LANE_START_5(m) V5(LANE_START, m)
#define LANE_PIXEL(m, V) { fvec b = fbroadcast(xg + m * step); V(LANE_DOT, m) }
#define LANE_DOT_1(m) LANE_PIXEL(m, V1)
#define LANE_DOT_2(m) LANE_PIXEL(m, V2)
#define LANE_DOT_3(m) LANE_PIXEL(m, V3)
#define LANE_DOT_4(m) LANE_PIXEL(m, V4)
#define LANE_DOT_5(m) LANE_PIXEL(m, V5)
#define LANE_KEEP_1(m) V1(LANE_KEEP, m)
#define LANE_KEEP_2(m) V2(LANE_KEEP, m)
#define LANE_KEEP_3(m) V3(LANE_KEEP, m)
#define LANE_KEEP_4(m) V4(LANE_KEEP, m)
#define LANE_KEEP_5(m) V5(LANE_KEEP, m)

/* A chip's fused sums: each part is one. The products of 16-bit floats are exact in float32. Scaled
 * so that the largest lies under 2**25, they are integers once they are cut off; up to 32 of them
 * fit 32 bits. Where the largest is under 2**-102 it is taken as if it were not. */
INLINE fvec fused_unit(fvec largest, fvec *scale) {
    uint32_t bits[VL];
    float unit[VL], inverse[VL];
    memcpy(bits, &largest, sizeof bits);
    for (int j = 0; j < VL; j++) {
        uint32_t power = bits[j] & 0x7f800000u, one, two;
        power = power > 25u << 23 ? power : 25u << 23;
        one = power - (24u << 23), two = (278u << 23) - power;
        memcpy(unit + j, &one, 4);
        memcpy(inverse + j, &two, 4);
    }
    *scale = fload(inverse);
    return fload(unit);
}

#if defined(WIDE)
#define FUSED_PIXELS 6
#else
#define FUSED_PIXELS 4
#endif
INLINE void fused_tile(const float *x, long step, const float *weights, int nv, int pixels,
                       const int32_t *offsets, const int32_t *starts, int parts, const float *bias,
                       int relu, float *out, long out_step, int valid) {
    for (int v = 0; v < nv; v++) {
        fvec sums[FUSED_PIXELS];
        for (int m = 0; m < pixels; m++) sums[m] = bias ? fload(bias + v * VL) : fzero();
        for (int part = 0; part < parts; part++) {
            fvec largest[FUSED_PIXELS], scale[FUSED_PIXELS], unit[FUSED_PIXELS];
            ivec whole[FUSED_PIXELS];
            for (int m = 0; m < pixels; m++) largest[m] = fzero(), whole[m] = izero();
            for (long g = starts[part]; g < starts[part + 1]; g++) {
                fvec w = fload(weights + (g * nv + v) * VL);
                const float *xg = x + offsets[g];
                for (int m = 0; m < pixels; m++)
                    largest[m] = flargest(largest[m], fmul(fbroadcast(xg + m * step), w));
            }
            for (int m = 0; m < pixels; m++) unit[m] = fused_unit(largest[m], scale + m);
            for (long g = starts[part]; g < starts[part + 1]; g++) {
                fvec w = fload(weights + (g * nv + v) * VL);
                const float *xg = x + offsets[g];
                for (int m = 0; m < pixels; m++) {
                    fvec product = fmul(fbroadcast(xg + m * step), w);
                    whole[m] = iadd(whole[m], itruncated(fmul(product, scale[m])));
                }
            }
            for (int m = 0; m < pixels; m++)
                sums[m] = fadd(sums[m], fmul(ffloat(whole[m]), unit[m]));
        }
        for (int m = 0; m < pixels; m++)
            float_store(out + m * out_step + v * VL, sums[m], 0, 0, relu,
                        valid - v * VL < VL ? valid - v * VL : VL);
    }
}

#if defined(WIDE)
#define TILES(F) F(1, 1) F(1, 12) F(2, 1) F(2, 12) F(3, 1) F(3, 8) F(4, 1) F(4, 6) F(5, 1) F(5, 5)
#define PICK(T, NV, ONE)                                                                          \
    ((NV) == 1 ? ((ONE) ? T##_1_1 : T##_1_12) : (NV) == 2 ? ((ONE) ? T##_2_1 : T##_2_12)          \
     : (NV) == 3 ? ((ONE) ? T##_3_1 : T##_3_8) : (NV) == 4 ? ((ONE) ? T##_4_1 : T##_4_6)          \
     : ((ONE) ? T##_5_1 : T##_5_5))
static const int PIXELS[] = {0, 12, 12, 8, 6, 5};
int32_t most_vectors(void) { return 5; }
int32_t usual_vectors(void) { return 4; }
#else
#define TILES(F) F(1, 1) F(1, 8) F(2, 1) F(2, 6) F(3, 1) F(3, 4)
#define PICK(T, NV, ONE)                                                                          \
    ((NV) == 1 ? ((ONE) ? T##_1_1 : T##_1_8) : (NV) == 2 ? ((ONE) ? T##_2_1 : T##_2_6)            \
     : ((ONE) ? T##_3_1 : T##_3_4))
static const int PIXELS[] = {0, 8, 6, 4};
int32_t most_vectors(void) { return 3; }
int32_t usual_vectors(void) { return 2; }
#endif
TILES(BYTE_TILE)
TILES(FLOAT_TILE)
TILES(LANE_TILE)

INLINE void fill(elem *to, elem value, long count) {
    for (long j = 0; j < count; j++) to[j] = value;
}

INLINE void widen(elem *restrict to, const uint8_t *restrict from, long count) {
    for (long j = 0; j < count; j++) to[j] = from[j];
}

/* Geometry shared by both convolutions, in Op.i */
enum { IH, IW, IC, TOP, LEFT, BOTTOM, RIGHT, PAD, OH, OW, OC, OCS, SH, SW, GROUPS, BLOCKS, COPY,
       LOW, HIGH, ADD, RELU, STORAGE, PARTS, AWAY, SRC_H, SRC_W, STEP_H, STEP_W };
/* Of floats, in the places of LOW, HIGH and ADD: what the parts of a sum are, the one that starts
 * with the bias, and what products and sums in lanes are rounded to */
enum { KIND = LOW, BIASED = HIGH, ROUNDED = ADD };
enum { PARTS_ADDED, PARTS_LANES, PARTS_FUSED };

/* Of each block of output channels: vectors, first channel, channels, where its offsets start */
typedef struct {
    int32_t vectors, first, valid, offsets;
} Block;

/* Rows of output that can run as one, because the input is as wide as the output. */
static void runs(const int32_t *i, long n, long *images, long *rows, long *columns) {
    long ph = i[IH] + i[TOP] + i[BOTTOM], pw = i[IW] + i[LEFT] + i[RIGHT];
    *images = n, *rows = i[OH], *columns = i[OW];
    if (i[SW] == 1 && i[SH] == 1 && pw == i[OW]) {
        *columns *= *rows, *rows = 1;
        if (ph == i[OH]) *columns *= *images, *images = 1;
    }
}

/* The input with its pads; with values in between, where the steps are above 1. */
static const elem *padded_bytes(const Op *op, void **buffers, long n) {
    const int32_t *i = op->i;
    const uint8_t *src = buffers[op->src[0]];
    long ph = i[IH] + i[TOP] + i[BOTTOM], pw = i[IW] + i[LEFT] + i[RIGHT], ic = i[IC];
    if (!i[COPY]) return (const elem *)src;
    elem *copy = buffers[op->scratch];
    long left = i[LEFT] * ic, middle = i[IW] * ic, right = i[RIGHT] * ic;
    elem pad = (elem)i[PAD];
    for (long image = 0; image < n; image++)
        for (long r = -i[TOP]; r < ph - i[TOP]; r++, copy += pw * ic) {
            if (r < 0 || r >= i[IH] || r % i[STEP_H]) {
                fill(copy, pad, pw * ic);
                continue;
            }
            const uint8_t *row = src + (image * i[SRC_H] + r / i[STEP_H]) * i[SRC_W] * ic;
            if (i[STEP_W] == 1) {
                fill(copy, pad, left);
                widen(copy + left, row, middle);
                fill(copy + left + middle, pad, right);
                continue;
            }
            fill(copy, pad, pw * ic);
            for (long w = 0; w < i[SRC_W]; w++)
                widen(copy + left + w * i[STEP_W] * ic, row + w * ic, ic);
        }
    return buffers[op->scratch];
}

static Requant requant_of(const Op *op) {
    const int32_t *i = op->i;
    return (Requant){.bias = op->p[2], .multiplier = op->p[3], .shift = op->p[4],
                     .half = op->p[5], .least = op->p[6], .most = op->p[7], .factor = op->p[8],
                     .line = op->p[10], .low = i[LOW], .high = i[HIGH], .add = i[ADD],
                     .away = i[AWAY]};
}

/* The short way of AVX2 needs rounding down as the processor's mode. */
INLINE unsigned begin_requant(const Requant *q) {
    unsigned before = 0;
#if !defined(WIDE) && !defined(PLAIN)
    before = _mm_getcsr();
    if (q->line) _mm_setcsr((before & ~(unsigned)_MM_ROUND_MASK) | _MM_ROUND_DOWN);
    __asm__ volatile("" ::: "memory");
#endif
    (void)q;
    return before;
}

INLINE void end_requant(unsigned before) {
#if !defined(WIDE) && !defined(PLAIN)
    __asm__ volatile("" ::: "memory");
    _mm_setcsr(before);
#endif
    (void)before;
}

/* Padding channels: byte 0, and the weights that meet it are 0. */
INLINE void clear_padding(uint8_t *y, long pixels, long channels, long stride) {
    if (stride > channels)
        for (long p = 0; p < pixels; p++)
            memset(y + p * stride + channels, 0, (size_t)(stride - channels));
}

static void convolve_bytes(const Op *op, void **buffers, long n) {
    const int32_t *i = op->i;
    uint8_t *dst = buffers[op->dst];
    long ph = i[IH] + i[TOP] + i[BOTTOM], pw = i[IW] + i[LEFT] + i[RIGHT], ic = i[IC];
    const elem *x = padded_bytes(op, buffers, n);
    Requant q = requant_of(op);
    const int32_t *offsets = op->p[1];
    const Block *blocks = op->p[9];
    long images, rows, columns, step = i[SW] * ic;
    runs(i, n, &images, &rows, &columns);
    const int8_t *weights = op->p[0];
    long c = 0; /* place in the packed constants */
    unsigned before = begin_requant(&q);
    for (int block = 0; block < i[BLOCKS]; block++) {
        int nv = blocks[block].vectors, mp = PIXELS[nv], valid = blocks[block].valid;
        const int32_t *taps = offsets + blocks[block].offsets;
        int together = q.line && q.low == 0 && q.high == 255 && valid >= 4 * VL;
        for (long image = 0; image < images; image++)
            for (long r = 0; r < rows; r++) {
                const elem *xr = x + (image * ph + r * i[SH]) * pw * ic;
                uint8_t *out = dst + (image * i[OH] + r) * i[OW] * (long)i[OCS]
                               + blocks[block].first;
                long m = 0;
                for (; m < columns; m += mp) {
                    if (m + mp > columns) {
                        if (columns < mp) break;
                        m = columns - mp; /* the last tile overlaps the one before */
                    }
                    PICK(byte_tile, nv, 0)(xr + m * step, step, weights, taps, i[GROUPS], &q, c,
                                           out + m * i[OCS], i[OCS], valid, together);
                }
                for (; m < columns; m++)
                    PICK(byte_tile, nv, 1)(xr + m * step, step, weights, taps, i[GROUPS], &q, c,
                                           out + m * i[OCS], i[OCS], valid, together);
            }
        weights += (long)i[GROUPS] * nv * (long)sizeof(ivec);
        c += (long)nv * VL;
    }
    end_requant(before);
    clear_padding(dst, n * i[OH] * i[OW], i[OC], i[OCS]);
}

/* Depthwise: one vector of channels at a time, two taps in each multiply-add. A pair of taps has
 * its weights side by side as int16; an odd last one is paired with itself and weight 0. */
#if defined(PLAIN)
INLINE ivec two_taps(ivec acc, const elem *a, const elem *b, const int16_t *w) {
    for (int j = 0; j < VL; j++) acc.v[j] += a[j] * w[2 * j] + b[j] * w[2 * j + 1];
    return acc;
}
#elif defined(WIDE)
INLINE ivec channels_of(const elem *p) {
#if KSTEP == 4
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
#else
    return _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)p));
#endif
}
INLINE ivec two_taps(ivec acc, const elem *a, const elem *b, const int16_t *w) {
    ivec pair = _mm512_or_si512(channels_of(a), _mm512_slli_epi32(channels_of(b), 16));
    return _mm512_add_epi32(acc, _mm512_madd_epi16(pair, iload(w)));
}
#else
INLINE ivec channels_of(const elem *p) {
#if KSTEP == 4
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
#else
    return _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)p));
#endif
}
INLINE ivec two_taps(ivec acc, const elem *a, const elem *b, const int16_t *w) {
    ivec pair = _mm256_or_si256(channels_of(a), _mm256_slli_epi32(channels_of(b), 16));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pair, iload(w)));
}
#endif

#define DEPTH_START(m) ivec a##m = iload(q->bias + c);
#define DEPTH_TAPS(m) a##m = two_taps(a##m, one + m * step, two + m * step, w);
#define DEPTH_STORE(m) requant_store(out + m * out_step, a##m, q, c, lanes);
#define DEPTH_TILE(MP)                                                                            \
    INLINE void depth_tile_##MP(const elem *x, long step, const int16_t *weights,                 \
                                const int32_t *offsets, long pairs, const Requant *q, long c,     \
                                uint8_t *out, long out_step, int lanes) {                         \
        M##MP(DEPTH_START)                                                                        \
        for (long g = 0; g < pairs; g++) {                                                        \
            const elem *one = x + offsets[2 * g], *two = x + offsets[2 * g + 1];                  \
            const int16_t *w = weights + g * 2 * VL;                                              \
            M##MP(DEPTH_TAPS)                                                                     \
        }                                                                                         \
        M##MP(DEPTH_STORE)                                                                        \
    }
DEPTH_TILE(1)
DEPTH_TILE(4)

static void convolve_depth(const Op *op, void **buffers, long n) {
    const int32_t *i = op->i;
    uint8_t *dst = buffers[op->dst];
    long ph = i[IH] + i[TOP] + i[BOTTOM], pw = i[IW] + i[LEFT] + i[RIGHT], ic = i[IC];
    const elem *x = padded_bytes(op, buffers, n);
    Requant q = requant_of(op);
    long step = i[SW] * ic, pairs = i[GROUPS], columns = i[OW];
    unsigned before = begin_requant(&q);
    for (long line = 0; line < n * i[OH]; line++) {
        const elem *xr = x + (line / i[OH] * ph + line % i[OH] * i[SH]) * pw * ic;
        uint8_t *out = dst + line * columns * i[OCS];
        const int16_t *weights = op->p[0];
        for (long c = 0; c < i[OC]; c += VL, weights += pairs * 2 * VL) {
            int lanes = i[OC] - c < VL ? (int)(i[OC] - c) : VL;
            long m = 0;
            for (; m + 4 <= columns; m += 4)
                depth_tile_4(xr + c + m * step, step, weights, op->p[1], pairs, &q, c,
                             out + c + m * i[OCS], i[OCS], lanes);
            for (; m < columns; m++)
                depth_tile_1(xr + c + m * step, step, weights, op->p[1], pairs, &q, c,
                             out + c + m * i[OCS], i[OCS], lanes);
        }
    }
    end_requant(before);
    clear_padding(dst, n * i[OH] * columns, i[OC], i[OCS]);
}

/* i: products, rows of the left, rows of the right (columns of the result), length, its stride,
 * stride of the result, zero bytes of both, multiplier, low, high, what is added, away; f: none;
 * p: shift and half as int64, bias or 0. Both operands as rows of `length`. */
static void matmul_bytes(const Op *op, void **buffers, long n) {
    const int32_t *i = op->i;
    long m = i[1], columns = i[2], length = i[3], stride = i[4];
    const int64_t *shift = op->p[0];
    const int32_t *bias = op->p[1];
    int32_t za = i[6], zb = i[7];
    for (long product = 0; product < n * i[0]; product++) {
        const uint8_t *a = (const uint8_t *)buffers[op->src[0]] + product * m * stride;
        for (long r = 0; r < m; r++, a += stride) {
            uint8_t *y = (uint8_t *)buffers[op->dst] + (product * m + r) * i[5];
            const uint8_t *b = (const uint8_t *)buffers[op->src[1]] + product * columns * stride;
            int32_t left = 0;
            for (long k = 0; k < length; k++) left += a[k];
            for (long c = 0; c < columns; c++, b += stride) {
                int32_t sum = 0, right = 0;
                for (long k = 0; k < length; k++) sum += (int32_t)a[k] * b[k], right += b[k];
                sum += (int32_t)length * za * zb - zb * left - za * right + (bias ? bias[c] : 0);
                int64_t v = (int64_t)sum * i[8];
                v = ((v + shift[1] - (i[12] && v < 0 && shift[1])) >> shift[0]) + i[11];
                v = v > i[9] ? v : i[9];
                y[c] = (uint8_t)(v < i[10] ? v : i[10]);
            }
            memset(y + columns, 0, (size_t)(i[5] - columns));
        }
    }
}

/* A chip's float32 product. i: products, rows of the left, columns of the result, length, ReLU;
 * p: bias or 0. The left one as rows of `length`, the right one as `length` rows of columns. */
static void matmul_floats(const Op *op, void **buffers, long n) {
    const int32_t *i = op->i;
    const float *restrict bias = op->p[0];
    long m = i[1], columns = i[2], length = i[3];
    float odd[WIDEST_CHANNELS];
    for (long row = 0; row < n * i[0] * m; row++) {
        const float *a = (const float *)buffers[op->src[0]] + row * length;
        const float *restrict b = (const float *)buffers[op->src[1]] + row / m * length * columns;
        float *restrict y = (float *)buffers[op->dst] + row * columns;
        for (long c = 0; c < columns; c++) y[c] = odd[c] = 0.0f;
        for (long k = 0; k < length; k++, b += columns) {
            float *restrict sum = k % 2 ? odd : y, value = a[k];
            for (long c = 0; c < columns; c++) sum[c] += value * b[c];
        }
        for (long c = 0; c < columns; c++) y[c] += odd[c];
        if (bias)
            for (long c = 0; c < columns; c++) y[c] += bias[c];
        if (i[4])
            for (long c = 0; c < columns; c++) y[c] = y[c] > 0 ? y[c] : 0;
    }
}

INLINE fvec stored(fvec v, int storage) {
    float values[VL];
    memcpy(values, &v, sizeof values);
    round_storage(values, VL, storage);
    return fload(values);
}

/* As lane_tile for two lanes and one pixel, rounded to 16 bits after every product and sum. */
static void lane_tile_16(const float *x, const float *weights, int nv, const int32_t *offsets,
                         const int32_t *starts, int biased, const float *bias, int relu,
                         float *out, int valid, int storage) {
    for (int v = 0; v < nv; v++) {
        fvec sums[2];
        for (int part = 0; part < 2; part++) {
            sums[part] = part == biased && bias ? fload(bias + v * VL) : fzero();
            for (long g = starts[part]; g < starts[part + 1]; g++) {
                fvec product = fmul(fbroadcast(x + offsets[g]), fload(weights + (g * nv + v) * VL));
                sums[part] = stored(fadd(sums[part], stored(product, storage)), storage);
            }
        }
        float_store(out + v * VL, fadd(sums[0], sums[1]), 0, 0, relu,
                    valid - v * VL < VL ? valid - v * VL : VL);
    }
}

/* One block of output channels along a row, in a chip's order. */
static void chip_row(const Op *op, const float *x, long step, const float *weights,
                     const int32_t *taps, const float *bias, const Block *block, float *out,
                     long columns) {
    const int32_t *i = op->i, *starts = op->p[3];
    int nv = block->vectors, mp = i[KIND] == PARTS_LANES ? PIXELS[nv] : FUSED_PIXELS;
    if (i[ROUNDED]) mp = 1;
    for (long m = 0; m < columns;) {
        if (m + mp > columns && columns >= mp) m = columns - mp; /* overlaps the one before */
        int whole = m + mp <= columns;
        const float *xm = x + m * step;
        float *to = out + m * i[OC];
        if (i[ROUNDED])
            lane_tile_16(xm, weights, nv, taps, starts, i[BIASED], bias, i[RELU], to, block->valid,
                         i[ROUNDED]);
        else if (i[KIND] == PARTS_FUSED && whole)
            fused_tile(xm, step, weights, nv, FUSED_PIXELS, taps, starts, i[PARTS], bias, i[RELU],
                       to, i[OC], block->valid);
        else if (i[KIND] == PARTS_FUSED)
            fused_tile(xm, step, weights, nv, 1, taps, starts, i[PARTS], bias, i[RELU], to, i[OC],
                       block->valid);
        else if (whole)
            PICK(lane_tile, nv, 0)(xm, step, weights, taps, starts, i[PARTS], i[BIASED], bias,
                                   i[RELU], to, i[OC], block->valid);
        else
            PICK(lane_tile, nv, 1)(xm, step, weights, taps, starts, i[PARTS], i[BIASED], bias,
                                   i[RELU], to, i[OC], block->valid);
        m += whole ? mp : 1;
    }
}

static void convolve_floats(const Op *op, void **buffers, long n) {
    const int32_t *i = op->i;
    const float *src = buffers[op->src[0]], *x = src;
    float *dst = buffers[op->dst];
    long ph = i[IH] + i[TOP] + i[BOTTOM], pw = i[IW] + i[LEFT] + i[RIGHT], ic = i[IC];
    if (i[COPY]) {
        float *copy = buffers[op->scratch];
        x = copy;
        memset(copy, 0, sizeof(float) * (size_t)(n * ph * pw * ic));
        for (long line = 0; line < n * i[SRC_H]; line++) {
            long row = line / i[SRC_H] * ph + line % i[SRC_H] * i[STEP_H] + i[TOP];
            float *to = copy + (row * pw + i[LEFT]) * ic;
            const float *from = src + line * i[SRC_W] * ic;
            if (i[STEP_W] == 1)
                memcpy(to, from, sizeof(float) * (size_t)(i[IW] * ic));
            else
                for (long w = 0; w < i[SRC_W]; w++)
                    memcpy(to + w * i[STEP_W] * ic, from + w * ic, sizeof(float) * (size_t)ic);
        }
    }
    const int32_t *offsets = op->p[1], *starts = op->p[3];
    const Block *blocks = op->p[9];
    const float *weights = op->p[0], *bias = op->p[2];
    long images, rows, columns, step = i[SW] * ic, c = 0;
    runs(i, n, &images, &rows, &columns);
    for (int block = 0; block < i[BLOCKS]; block++) {
        int nv = blocks[block].vectors, mp = PIXELS[nv], valid = blocks[block].valid;
        const int32_t *taps = offsets + blocks[block].offsets;
        for (int part = 0; i[KIND] == PARTS_ADDED && part < i[PARTS]; part++) {
            int last = part == i[PARTS] - 1;
            const float *part_bias = last && bias ? bias + c : 0;
            for (long image = 0; image < images; image++)
                for (long r = 0; r < rows; r++) {
                    const float *xr = x + (image * ph + r * i[SH]) * pw * ic;
                    float *out = dst + (image * i[OH] + r) * i[OW] * (long)i[OC]
                                 + blocks[block].first;
                    long m = 0;
                    /* No overlap here: a later part adds to what the earlier one left. */
                    for (; m + mp <= columns; m += mp)
                        PICK(float_tile, nv, 0)(xr + m * step, step, weights, taps, starts[part],
                                                starts[part + 1], part_bias, last && i[RELU],
                                                out + m * i[OC], i[OC], valid);
                    for (; m < columns; m++)
                        PICK(float_tile, nv, 1)(xr + m * step, step, weights, taps, starts[part],
                                                starts[part + 1], part_bias, last && i[RELU],
                                                out + m * i[OC], i[OC], valid);
                }
        }
        for (long line = 0; i[KIND] != PARTS_ADDED && line < images * rows; line++) {
            long image = line / rows, r = line % rows;
            chip_row(op, x + (image * ph + r * i[SH]) * pw * ic, step, weights, taps,
                     bias ? bias + c : 0, &blocks[block],
                     dst + (image * i[OH] + r) * i[OW] * (long)i[OC] + blocks[block].first, columns);
        }
        weights += (long)i[GROUPS] * nv * VL;
        c += (long)nv * VL;
    }
    round_storage(dst, n * i[OH] * i[OW] * (long)i[OC], i[STORAGE]);
}

/* ---- pooling -------------------------------------------------------------------------------- */

enum { P_IH, P_IW, P_C, P_OH, P_OW, P_KH, P_KW, P_SH, P_SW, P_OFF_IN, P_MUL, P_SHIFT, P_LOW, P_HIGH,
       P_ADD, P_STORAGE, P_MODE, P_COPY, P_TOP, P_LEFT, P_SRC_H, P_SRC_W, P_PAD, P_EDGES };
enum { MAX_BYTES, MAX_FLOATS, MEAN_BYTES, MEAN_AFFINE, MEAN_FLOATS, MEAN_LANES };
/* What is made of windows that reach into the pads: nothing, as the interpreter does with the sum,
 * or as a chip does with the mean. */
enum { EDGES_NONE, EDGES_COUNT, EDGES_UP, EDGES_AWAY, EDGES_FLOAT };

#if defined(WIDE)
#define BYTES 64
typedef __m512i bvec;
INLINE bvec bload(const void *p) { return _mm512_loadu_si512(p); }
INLINE void bstore(void *p, bvec v) { _mm512_storeu_si512(p, v); }
INLINE bvec bmax(bvec a, bvec b) { return _mm512_max_epu8(a, b); }
#elif !defined(PLAIN)
#define BYTES 32
typedef __m256i bvec;
INLINE bvec bload(const void *p) { return _mm256_loadu_si256(p); }
INLINE void bstore(void *p, bvec v) { _mm256_storeu_si256(p, v); }
INLINE bvec bmax(bvec a, bvec b) { return _mm256_max_epu8(a, b); }
#endif

/* The input with its pads. */
static const void *padded_windows(const Op *op, void **buffers, long n) {
    const int32_t *i = op->i;
    const uint8_t *src = buffers[op->src[0]];
    if (!i[P_COPY]) return src;
    int floats = i[P_MODE] == MAX_FLOATS || i[P_MODE] >= MEAN_FLOATS;
    long pixel = (long)i[P_C] * (floats ? 4 : 1), row = i[P_IW] * pixel, size = n * i[P_IH] * row;
    uint8_t *copy = buffers[op->scratch];
    if (floats)
        for (long j = 0; j < size / 4; j++)
            ((float *)copy)[j] = i[P_MODE] == MAX_FLOATS ? -INFINITY : 0;
    else
        memset(copy, i[P_PAD], (size_t)size);
    for (long line = 0; line < n * i[P_SRC_H]; line++) {
        long to = line / i[P_SRC_H] * i[P_IH] + line % i[P_SRC_H] + i[P_TOP];
        memcpy(copy + to * row + i[P_LEFT] * pixel, src + line * i[P_SRC_W] * pixel,
               (size_t)(i[P_SRC_W] * pixel));
    }
    return copy;
}

INLINE void larger(uint8_t *restrict y, const uint8_t *restrict x, long count) {
    for (long j = 0; j < count; j++) y[j] = x[j] > y[j] ? x[j] : y[j];
}

/* The largest of `count` pixels side by side, channel by channel. */
INLINE void max_across(uint8_t *restrict out, const uint8_t *restrict x, long c, long count) {
    long j = 0;
#if defined(WIDE)
    for (; j < c; j += BYTES) {
        __mmask64 there = c - j < BYTES ? (1ull << (c - j)) - 1 : ~0ull;
        bvec most = _mm512_maskz_loadu_epi8(there, x + j);
        for (long b = 1; b < count; b++)
            most = bmax(most, _mm512_maskz_loadu_epi8(there, x + b * c + j));
        _mm512_mask_storeu_epi8(out + j, there, most);
    }
#elif !defined(PLAIN)
    for (; j + BYTES <= c; j += BYTES) {
        bvec most = bload(x + j);
        for (long b = 1; b < count; b++) most = bmax(most, bload(x + b * c + j));
        bstore(out + j, most);
    }
    for (; j + 16 <= c; j += 16) {
        __m128i most = _mm_loadu_si128((const __m128i *)(x + j));
        for (long b = 1; b < count; b++)
            most = _mm_max_epu8(most, _mm_loadu_si128((const __m128i *)(x + b * c + j)));
        _mm_storeu_si128((__m128i *)(out + j), most);
    }
#endif
    for (; j < c; j++) {
        out[j] = x[j];
        for (long b = 1; b < count; b++) out[j] = out[j] > x[b * c + j] ? out[j] : x[b * c + j];
    }
}

/* A row of windows: first down, over the whole row at once whatever the channels, then across. */
INLINE void max_bytes(uint8_t *out, const uint8_t *x, uint8_t *line, const int32_t *i) {
    long c = i[P_C], row = i[P_IW] * c;
    if (i[P_KH] > 1) {
        memcpy(line, x, (size_t)row);
        for (long a = 1; a < i[P_KH]; a++) larger(line, x + a * row, row);
        x = line;
    }
    for (long w = 0; w < i[P_OW]; w++) max_across(out + w * c, x + w * i[P_SW] * c, c, i[P_KW]);
}

INLINE void max_floats(float *restrict out, const float *restrict x, long c, long kh, long kw,
                       long row) {
    for (long j = 0; j < c; j++) out[j] = x[j];
    for (long a = 0; a < kh; a++)
        for (long b = 0; b < kw; b++) {
            const float *restrict y = x + a * row + b * c;
            for (long j = 0; j < c; j++) out[j] = out[j] > y[j] ? out[j] : y[j];
        }
}

/* Window sums one row of the window after the other, as the vendor's loop does. */
INLINE void mean_floats(float *restrict out, const float *restrict x, long c, long kh, long kw,
                        long row, int storage, float count) {
    for (long j = 0; j < c; j++) out[j] = x[j];
    for (long a = 0; a < kh; a++)
        for (long b = a ? 0 : 1; b < kw; b++) {
            const float *restrict y = x + a * row + b * c;
            for (long j = 0; j < c; j++) out[j] += y[j];
        }
    for (long j = 0; j < c; j++) out[j] /= count;
    round_storage(out, c, storage);
}

/* A chip's: every value times 1/count, even and odd places apart. */
INLINE void mean_lanes_floats(float *restrict out, const float *restrict x, long c, long kh,
                              long kw, long row, float share, int storage) {
    float odd[WIDEST_CHANNELS], part[WIDEST_CHANNELS];
    for (long j = 0; j < c; j++) out[j] = odd[j] = 0.0f;
    for (long k = 0; k < kh * kw; k++) {
        const float *restrict y = x + k / kw * row + k % kw * c;
        float *restrict sum = k % 2 ? odd : out;
        for (long j = 0; j < c; j++) part[j] = y[j] * share;
        round_storage(part, c, storage);
        for (long j = 0; j < c; j++) sum[j] += part[j];
        round_storage(sum, c, storage);
    }
    for (long j = 0; j < c; j++) out[j] += odd[j];
    round_storage(out, c, storage);
}

static void pool(const Op *op, void **buffers, long n) {
    const int32_t *i = op->i;
    long c = i[P_C], row = i[P_IW] * c, kh = i[P_KH], kw = i[P_KW];
    /* Of the input, in each window; or what its mean is multiplied by. */
    const float *rows = op->p[1], *columns = op->p[2];
    const void *x = padded_windows(op, buffers, n);
    for (long image = 0; image < n; image++)
        for (long r = 0; r < i[P_OH]; r++) {
            long first = (image * i[P_IH] + r * i[P_SH]) * row;
            long to = (image * i[P_OH] + r) * i[P_OW] * c;
            if (i[P_MODE] == MAX_BYTES) {
                uint8_t *line = (uint8_t *)buffers[op->scratch] + (i[P_COPY] ? n * i[P_IH] * row : 0);
                max_bytes((uint8_t *)buffers[op->dst] + to, (const uint8_t *)x + first, line, i);
                continue;
            }
            for (long w = 0; w < i[P_OW]; w++, first += i[P_SW] * c, to += c) {
                float *out = (float *)buffers[op->dst] + to;
                const float *from = (const float *)x + first;
                if (i[P_MODE] == MAX_FLOATS)
                    max_floats(out, from, c, kh, kw, row);
                else if (i[P_MODE] == MEAN_FLOATS)
                    mean_floats(out, from, c, kh, kw, row, i[P_STORAGE],
                                i[P_EDGES] ? rows[r] * columns[w] : (float)(kh * kw));
                else {
                    mean_lanes_floats(out, from, c, kh, kw, row, op->f[0], i[P_STORAGE]);
                    if (i[P_EDGES]) {
                        for (long j = 0; j < c; j++) out[j] = out[j] * rows[r] * columns[w];
                    }
                }
            }
        }
}

INLINE void requant_means(uint8_t *restrict out, const int32_t *restrict sums, long c, int32_t m,
                          int32_t s, int32_t low, int32_t high, int32_t add) {
    int32_t half = s ? 1 << (s - 1) : 0;
    for (long j = 0; j < c; j++) {
        int32_t v = ((sums[j] * m + half) >> s) + add;
        v = v > low ? v : low;
        out[j] = (uint8_t)(v < high ? v : high);
    }
}

INLINE void affine_means(uint8_t *restrict out, const int32_t *restrict sums, long c, long kh,
                         long kw, const double *affine, float low, float high, float add) {
    float count = (float)(kh * kw);
    for (long j = 0; j < c; j++) {
        float mean = (float)sums[j] / count;
        mean = mean * (float)kh * (float)kw;
        float v = round_half_away((float)((double)mean * affine[0] + affine[1])) + add;
        v = v > low ? v : low;
        out[j] = (uint8_t)(v < high ? v : high);
    }
}

/* Sums of windows that reach into the pads, as they would be without. */
INLINE void count_edges(int32_t *restrict sums, long c, long kh, long kw, float count) {
    for (long j = 0; j < c; j++)
        sums[j] = (int32_t)round_half_away((float)sums[j] / count * (float)kh * (float)kw);
}

INLINE void scale_edges(uint8_t *restrict out, long c, float ratio, int away, int32_t add,
                        int32_t low, int32_t high) {
    for (long j = 0; j < c; j++) {
        float v = (float)((int32_t)out[j] - add) * ratio;
        int32_t whole = (int32_t)(away ? round_half_away(v) : floorf(v + 0.5f)) + add;
        whole = whole > low ? whole : low;
        out[j] = (uint8_t)(whole < high ? whole : high);
    }
}

/* The sum over the window's rows is shared by all windows of an output row; it fits 16 bits. */
static void mean_bytes(const Op *op, void **buffers, long n) {
    const int32_t *i = op->i;
    long c = i[P_C], row = i[P_IW] * c, kh = i[P_KH], kw = i[P_KW];
    uint16_t columns[WIDEST_ROW];
    int32_t sums[WIDEST_CHANNELS];
    const uint8_t *input = padded_windows(op, buffers, n);
    const float *rows = op->p[1], *across = op->p[2];
    for (long image = 0; image < n; image++)
        for (long r = 0; r < i[P_OH]; r++) {
            const uint8_t *x = input + (image * i[P_IH] + r * i[P_SH]) * row;
            uint8_t *out = (uint8_t *)buffers[op->dst] + (image * i[P_OH] + r) * i[P_OW] * c;
            for (long j = 0; j < row; j++) columns[j] = x[j];
            for (long a = 1; a < kh; a++) {
                const uint8_t *y = x + a * row;
                for (long j = 0; j < row; j++) columns[j] = (uint16_t)(columns[j] + y[j]);
            }
            for (long w = 0; w < i[P_OW]; w++, out += c) {
                const uint16_t *first = columns + w * i[P_SW] * c;
                int32_t start = -i[P_OFF_IN] * (int32_t)(kh * kw);
                for (long j = 0; j < c; j++) sums[j] = start;
                for (long b = 0; b < kw; b++, first += c)
                    for (long j = 0; j < c; j++) sums[j] += first[j];
                if (i[P_EDGES] == EDGES_COUNT) count_edges(sums, c, kh, kw, rows[r] * across[w]);
                if (i[P_MODE] == MEAN_BYTES)
                    requant_means(out, sums, c, i[P_MUL], i[P_SHIFT], i[P_LOW], i[P_HIGH],
                                  i[P_ADD]);
                else
                    affine_means(out, sums, c, kh, kw, op->p[0], (float)i[P_LOW],
                                 (float)i[P_HIGH], (float)i[P_ADD]);
                if (i[P_EDGES] > EDGES_COUNT) {
                    int away = i[P_EDGES] == EDGES_AWAY;
                    scale_edges(out, c, rows[r], away, i[P_ADD], i[P_LOW], i[P_HIGH]);
                    scale_edges(out, c, across[w], away, i[P_ADD], i[P_LOW], i[P_HIGH]);
                }
            }
        }
}

/* ---- element by element --------------------------------------------------------------------- */

/* Images come as rows of channels planes; x[image][c][pixel] -> y[image][pixel][c]. */
enum { L_C, L_PIXELS, L_STRIDE, L_STORAGE };

static void input_floats(const Op *op, void **buffers, long n) {
    long c = op->i[L_C], pixels = op->i[L_PIXELS];
    const float *x = buffers[op->src[0]];
    float *y = buffers[op->dst];
    for (long image = 0; image < n; image++)
        for (long k = 0; k < c; k++)
            for (long p = 0; p < pixels; p++)
                y[(image * pixels + p) * c + k] = x[(image * c + k) * pixels + p];
}

static void input_bytes(const Op *op, void **buffers, long n) {
    long c = op->i[L_C], pixels = op->i[L_PIXELS], stride = op->i[L_STRIDE];
    const uint8_t *x = buffers[op->src[0]];
    uint8_t *y = buffers[op->dst];
    memset(y, 0, (size_t)(n * pixels * stride));
    for (long image = 0; image < n; image++)
        for (long k = 0; k < c; k++)
            for (long p = 0; p < pixels; p++)
                y[(image * pixels + p) * stride + k] = x[(image * c + k) * pixels + p];
}

enum { Q_C, Q_PIXELS, Q_STRIDE, Q_LOW, Q_HIGH, Q_ADD, Q_EXPRESSED };

INLINE void quantize_run(uint8_t *restrict y, const float *restrict x, long count, float inverse,
                         int expressed, float low, float high, float add) {
    float p[WIDEST_CHANNELS];
    for (long j = 0; j < count; j++) p[j] = x[j] * inverse;
    round_storage(p, count, expressed);
    for (long j = 0; j < count; j++) {
        float v = round_half_away(p[j]) + add;
        v = v > low ? v : low;
        v = v < high ? v : high;
        y[j] = (uint8_t)(int32_t)v;
    }
}

static void quantize(const Op *op, void **buffers, long n) {
    const int32_t *i = op->i;
    long c = i[Q_C], stride = i[Q_STRIDE], count = n * i[Q_PIXELS];
    const float *x = buffers[op->src[0]];
    uint8_t *y = buffers[op->dst];
    /* Whole pixels at a time: with few channels, a pixel alone is too short a loop. */
    long pixels = WIDEST_CHANNELS / c;
    uint8_t bytes[WIDEST_CHANNELS + sizeof(word32)];
    for (long p = 0; p < count; p += pixels, x += pixels * c, y += pixels * stride) {
        if (pixels > count - p) pixels = count - p;
        quantize_run(stride == c ? y : bytes, x, pixels * c, op->f[0], i[Q_EXPRESSED],
                     (float)i[Q_LOW], (float)i[Q_HIGH], (float)i[Q_ADD]);
        if (stride == c) continue;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        if (stride == sizeof(word32)) { /* a picture's planes: a call for each would take longer */
            for (long k = 0; k < pixels; k++)
                ((word32 *)y)[k] = *(const word32 *)(bytes + k * c) & ((1u << 8 * c) - 1);
            continue;
        }
#endif
        memset(y, 0, (size_t)(pixels * stride));
        for (long k = 0; k < pixels; k++) memcpy(y + k * stride, bytes + k * c, (size_t)c);
    }
}

/* f: scale, offset and zero point together; i: channels, pixels, stride, storage */
static void dequantize(const Op *op, void **buffers, long n) {
    long c = op->i[L_C], pixels = n * op->i[L_PIXELS], stride = op->i[L_STRIDE];
    const uint8_t *restrict x = buffers[op->src[0]];
    float *restrict y = buffers[op->dst];
    float scale = op->f[0], zero = op->f[1];
    for (long p = 0; p < pixels; p++)
        for (long j = 0; j < c; j++) y[p * c + j] = ((float)x[p * stride + j] - zero) * scale;
    round_storage(y, pixels * c, op->i[L_STORAGE]);
}

/* i: values per image (padding included), what is subtracted from each operand, multiplier, shift,
 * low, high, what is added to the result */
static void multiply_bytes(const Op *op, void **buffers, long n) {
    const int32_t *i = op->i;
    const uint8_t *restrict a = buffers[op->src[0]], *restrict b = buffers[op->src[1]];
    uint8_t *restrict y = buffers[op->dst];
    int32_t za = i[1], zb = i[2], m = i[3], s = i[4], low = i[5], high = i[6], add = i[7];
    int32_t half = s ? 1 << (s - 1) : 0;
    long count = n * i[0];
    for (long j = 0; j < count; j++) {
        int32_t v = ((((int32_t)a[j] - za) * ((int32_t)b[j] - zb) * m + half) >> s) + add;
        v = v > low ? v : low;
        y[j] = (uint8_t)(v < high ? v : high);
    }
}

/* i: values per image (padding included); of each operand what is subtracted, multiplier, shift;
 * sign of the second, low, high, what is added to the result */
static void add_bytes(const Op *op, void **buffers, long n) {
    const int32_t *i = op->i;
    const uint8_t *restrict a = buffers[op->src[0]], *restrict b = buffers[op->src[1]];
    uint8_t *restrict y = buffers[op->dst];
    int32_t za = i[1], ma = i[2], sa = i[3], zb = i[4], mb = i[5], sb = i[6];
    int32_t half_a = sa ? 1 << (sa - 1) : 0, half_b = sb ? 1 << (sb - 1) : 0;
    int32_t sign = i[7], low = i[8], high = i[9], add = i[10];
    long count = n * i[0];
    for (long j = 0; j < count; j++) {
        int32_t left = (((int32_t)a[j] - za) * ma + half_a) >> sa;
        int32_t right = (((int32_t)b[j] - zb) * mb + half_b) >> sb;
        int32_t v = left + sign * right + add;
        v = v > low ? v : low;
        y[j] = (uint8_t)(v < high ? v : high);
    }
}

static void lookup(const Op *op, void **buffers, long n) {
    long count = n * op->i[0];
    const uint8_t *restrict x = buffers[op->src[0]], *restrict table = op->p[0];
    uint8_t *restrict y = buffers[op->dst];
    for (long j = 0; j < count; j++) y[j] = table[x[j]];
}

enum { S_C, S_STRIDE, S_PIXELS, S_OFF_IN, S_MIN, S_MAX, S_LOW, S_HIGH, S_ADD };

static void channel_scale(const Op *op, void **buffers, long n) {
    const int32_t *i = op->i;
    const int32_t *restrict scale = op->p[0], *restrict bias = op->p[1], *restrict shift = op->p[2];
    long c = i[S_C], stride = i[S_STRIDE];
    const uint8_t *restrict x = buffers[op->src[0]];
    uint8_t *restrict y = buffers[op->dst];
    int32_t off = i[S_OFF_IN], least = i[S_MIN], most = i[S_MAX];
    int32_t low = i[S_LOW], high = i[S_HIGH], add = i[S_ADD];
    for (long p = 0; p < n * i[S_PIXELS]; p++, x += stride, y += stride)
        for (long j = 0; j < c; j++) {
            int32_t v = ((int32_t)x[j] - off) * scale[j] + bias[j];
            v = v > least ? v : least;
            v = v < most ? v : most;
            v = (v >> shift[j]) + add;
            v = v > low ? v : low;
            y[j] = (uint8_t)(v < high ? v : high);
        }
}

static void float_scale(const Op *op, void **buffers, long n) {
    const float *restrict scale = op->p[0], *restrict bias = op->p[1];
    const float *restrict x = buffers[op->src[0]];
    float *restrict y = buffers[op->dst];
    long c = op->i[0];
    for (long p = 0; p < n * op->i[1]; p++, x += c, y += c)
        for (long j = 0; j < c; j++) {
            float v = x[j] * scale[j] + bias[j];
            y[j] = op->i[2] ? (v > 0 ? v : 0) : v;
        }
}

INLINE float rounded(float x, int storage) {
    round_storage(&x, 1, storage);
    return x;
}

/* A chip's 1/sqrt(x) after some Newton steps. The start is made of the number's bits in its own
 * storage; F16 has an exponent that starts 112 later. */
static float chip_root(float x, int storage, int steps) {
    int32_t bits;
    float root, half = rounded(x * 0.5f, storage);
    memcpy(&bits, &x, 4);
    if (storage == F32)
        bits = 0x5f3759df - (bits >> 1);
    else if (storage == BF16)
        bits = (0x5f37 - (bits >> 17)) << 16;
    else
        bits = (0x59ba - (((bits >> 13) - (112 << 10)) >> 1) + (112 << 10)) << 13;
    memcpy(&root, &bits, 4);
    for (int k = 0; k < steps; k++) {
        float part = rounded(rounded(half * root, storage) * root, storage);
        root = rounded(root * rounded(1.5f - part, storage), storage);
    }
    return root;
}

static float chip_reciprocal(float x, int storage) {
    float root = chip_root(fabsf(x), storage, 3);
    return copysignf(rounded(root * root, storage), x);
}

/* i: elements per image, storage, operation, ReLU; f: sign of the second operand of a sum */
enum { SUM, PRODUCT, QUOTIENT, RECIPROCAL };

static void two_floats(const Op *op, void **buffers, long n) {
    const float *restrict a = buffers[op->src[0]], *restrict b = buffers[op->src[1]];
    float *restrict y = buffers[op->dst], sign = op->f[0];
    long count = n * op->i[0];
    if (op->i[2] == SUM)
        for (long j = 0; j < count; j++) y[j] = a[j] + sign * b[j];
    else if (op->i[2] == PRODUCT)
        for (long j = 0; j < count; j++) y[j] = a[j] * b[j];
    else if (op->i[2] == RECIPROCAL)
        for (long j = 0; j < count; j++) y[j] = a[j] * chip_reciprocal(b[j], op->i[1]);
    else
        for (long j = 0; j < count; j++) y[j] = a[j] / b[j];
    if (op->i[3])
        for (long j = 0; j < count; j++) y[j] = y[j] > 0 ? y[j] : 0;
    round_storage(y, count, op->i[1]);
}

/* i: elements per image, storage, operation, ReLU; p: constants */
enum { LEAKY, CLIP, TIMES, PLUS, MINUS_FROM };

static void float_unary(const Op *op, void **buffers, long n) {
    const float *restrict x = buffers[op->src[0]];
    float *restrict y = buffers[op->dst];
    const double *constants = op->p[0];
    double first = constants[0], second = constants[1];
    long count = n * op->i[0];
    for (long j = 0; j < count; j++) switch (op->i[2]) {
        case LEAKY: y[j] = x[j] > 0 ? x[j] : x[j] * (float)first; break;
        case CLIP:
            y[j] = x[j] > (float)first ? x[j] : (float)first;
            y[j] = y[j] < (float)second ? y[j] : (float)second;
            break;
        case TIMES: y[j] = (float)((double)x[j] * first); break;
        case PLUS: y[j] = (float)((double)x[j] + first); break;
        default: y[j] = (float)(first - (double)x[j]);
        }
    if (op->i[3])
        for (long j = 0; j < count; j++) y[j] = y[j] > 0 ? y[j] : 0;
    round_storage(y, count, op->i[1]);
}

/* i: elements per image, storage, images that share a divisor, multiply by the chip's reciprocal */
static void divide(const Op *op, void **buffers, long n) {
    const float *b = buffers[op->src[1]];
    long size = op->i[0], shared = op->i[2];
    for (long image = 0; image < n; image++) {
        const float *restrict a = (const float *)buffers[op->src[0]] + image * size;
        float *restrict y = (float *)buffers[op->dst] + image * size;
        float divisor = b[image / shared], factor = op->i[3] ? chip_reciprocal(divisor, op->i[1]) : 0;
        if (op->i[3])
            for (long j = 0; j < size; j++) y[j] = a[j] * factor;
        else
            for (long j = 0; j < size; j++) y[j] = a[j] / divisor;
    }
    round_storage(buffers[op->dst], n * size, op->i[1]);
}

static void float_cast(const Op *op, void **buffers, long n) {
    long count = n * op->i[0];
    memcpy(buffers[op->dst], buffers[op->src[0]], sizeof(float) * (size_t)count);
    if (op->i[2]) { /* between two f16: off the middle, away from zero */
        word32 *bits = buffers[op->dst];
        for (long j = 0; j < count; j++) bits[j] += (bits[j] & 0x1fffu) == 0x1000u;
    }
    round_storage(buffers[op->dst], count, op->i[1]);
}

/* i: channels, pixels, storage, images of a group. One accumulator for a group, channel by channel,
 * pixel by pixel, as the values lie in the interpreter's memory; up to four groups side by side,
 * because each addition waits for the one before. Sixteen channels are copied together first: a
 * walk down one channel would meet the same few cache sets again and again. */
#define STRIP 16
#if defined(__x86_64__)
/* Keeps GCC from gathering the four sums into a vector, which takes longer than adding. */
#define SEPARATE(a, b, c, d) __asm__("" : "+x"(a), "+x"(b), "+x"(c), "+x"(d))
#else
#define SEPARATE(a, b, c, d)
#endif
#define WIDEST_PLANE 1024

static void mean_all(const Op *op, void **buffers, long n) {
    long c = op->i[0], pixels = op->i[1], shared = op->i[3], groups = n / shared;
    long size = c * pixels * shared;
    float *y = buffers[op->dst];
    float strip[4][WIDEST_PLANE * STRIP];
    for (long g = 0; g < groups; g += 4) {
        float sums[4] = {0, 0, 0, 0};
        long side = groups - g < 4 ? groups - g : 4;
        for (long image = 0; image < shared; image++)
            for (long k = 0; k < c; k += STRIP) {
                long width = c - k < STRIP ? c - k : STRIP;
                for (long q = 0; q < 4; q++) {
                    long from = g + (q < side ? q : 0);
                    const float *x = (const float *)buffers[op->src[0]] + from * size
                                     + image * pixels * c + k;
                    if (width == STRIP) /* a constant size, so that no call is made */
                        for (long p = 0; p < pixels; p++)
                            memcpy(strip[q] + p * STRIP, x + p * c, sizeof(float) * STRIP);
                    else
                        for (long p = 0; p < pixels; p++)
                            memcpy(strip[q] + p * STRIP, x + p * c, sizeof(float) * (size_t)width);
                }
                float s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
                for (long j = 0; j < width; j++)
                    for (long p = 0; p < pixels; p++) {
                        s0 += strip[0][p * STRIP + j], s1 += strip[1][p * STRIP + j];
                        s2 += strip[2][p * STRIP + j], s3 += strip[3][p * STRIP + j];
                        SEPARATE(s0, s1, s2, s3);
                    }
                sums[0] = s0, sums[1] = s1, sums[2] = s2, sums[3] = s3;
            }
        for (long q = 0; q < side; q++) y[g + q] = sums[q] * op->f[0];
    }
    round_storage(y, groups, op->i[2]);
}

/* Even and odd values summed in order, then the two; the first two of x are changed. */
static float even_and_odd(float *x, long count, int storage) {
    for (long j = 2; j < count; j++) {
        x[j % 2] += x[j];
        round_storage(x + j % 2, 1, storage);
    }
    x[0] += x[1];
    round_storage(x, 1, storage);
    return x[0];
}

/* A chip's sum of a run of values, as pooling.Mean describes it; count is padded to whole rows. */
static float lane_sum(const float *restrict x, long count, int lanes, float coefficient,
                      int storage) {
    float sums[WIDEST_LANES];
    memcpy(sums, x, sizeof(float) * (size_t)lanes);
    for (long k = lanes; k < count; k += lanes) {
        for (int j = 0; j < lanes; j++) sums[j] += x[k + j];
        round_storage(sums, lanes, storage);
    }
    int half = lanes / 2;
    for (int j = 0; j < half; j++) sums[j] += sums[half + j];
    round_storage(sums, half, storage);
    for (int j = 0; j < half; j++) sums[j] *= coefficient;
    round_storage(sums, half, storage);
    return even_and_odd(sums, half, storage);
}

/* Sum of a row in a chip's lanes, two of them for the even and the odd values, or none for one
 * value after the other; the row is changed, and has room for whole rows of lanes. */
static float row_sum(float *row, long count, int lanes, float coefficient, int storage) {
    float sum = 0;
    if (lanes > 2) {
        for (long k = count; k < count + lanes; k++) row[k] = 0;
        return lane_sum(row, count, lanes, coefficient, storage);
    }
    if (!lanes) {
        for (long k = 0; k < count; k++) sum += row[k];
        return sum;
    }
    for (long k = 0; k < count; k++) row[k] *= coefficient;
    round_storage(row, count, storage);
    if (count == 1) return row[0];
    return even_and_odd(row, count, storage);
}

/* i: channels, pixels, storage, images of a group, lanes, by plane, groups of values that get a
 * mean of their own first. The scratch buffer takes a group of images in the order of its memory on
 * the chip: image, channel, pixel. */
static void mean_lanes(const Op *op, void **buffers, long n) {
    long c = op->i[0], pixels = op->i[1], shared = op->i[3], groups = n / shared;
    long size = c * pixels * shared;
    int lanes = op->i[4], storage = op->i[2];
    const float *x = buffers[op->src[0]];
    float *y = buffers[op->dst], *flat = buffers[op->scratch];
    for (long g = 0; g < groups; g++, x += size) {
        for (long image = 0; image < shared; image++)
            for (long k = 0; k < c; k += STRIP) {
                long width = c - k < STRIP ? c - k : STRIP;
                for (long p = 0; p < pixels; p++) {
                    const float *from = x + (image * pixels + p) * c + k;
                    float *to = flat + (image * c + k) * pixels + p;
                    for (long j = 0; j < width; j++) to[j * pixels] = from[j];
                }
            }
        if (op->i[5]) {
            float planes[WIDEST_CHANNELS + WIDEST_LANES], plane[WIDEST_PLANE + WIDEST_LANES];
            memset(plane, 0, sizeof plane);
            memset(planes, 0, sizeof planes);
            for (long k = 0; k < c * shared; k++) {
                memcpy(plane, flat + k * pixels, sizeof(float) * (size_t)pixels);
                planes[k] = lane_sum(plane, pixels, lanes, 1.0f, storage);
            }
            y[g] = lane_sum(planes, c * shared, lanes, 1.0f, storage) * op->f[0];
            round_storage(y + g, 1, storage);
        } else if (op->i[6] > 1) {
            float means[WIDEST_CHANNELS], run[WIDEST_CHANNELS + WIDEST_LANES];
            long count = size / op->i[6];
            memset(run, 0, sizeof run);
            for (long k = 0; k < op->i[6]; k++) {
                memcpy(run, flat + k * count, sizeof(float) * (size_t)count);
                means[k] = lane_sum(run, count, lanes, op->f[0], storage) * op->f[1];
            }
            round_storage(means, op->i[6], storage);
            y[g] = even_and_odd(means, op->i[6], storage);
        } else {
            y[g] = row_sum(flat, size, lanes, op->f[0], storage);
        }
    }
}

/* i: results per image, values per image, values of a mean, storage, a chip's lanes (two for even
 * and odd values apart), 1/n at the end of it; p: where each mean starts, where its values lie from
 * there */
static void mean_places(const Op *op, void **buffers, long n) {
    const int32_t *i = op->i, *starts = op->p[0], *places = op->p[1];
    long results = i[0], count = i[2];
    int storage = i[3];
    float share = op->f[0], late = i[5] ? share : 1.0f, early = i[5] ? 1.0f : share;
    for (long image = 0; image < n; image++) {
        const float *x = (const float *)buffers[op->src[0]] + image * i[1];
        float *y = (float *)buffers[op->dst] + image * results;
        for (long r = 0; r < results; r++) {
            const float *from = x + starts[r];
            float sums[2] = {0, 0};
            if (i[4] > 2) {
                float row[WIDEST_CHANNELS + WIDEST_LANES];
                for (long k = 0; k < count; k++) row[k] = from[places[k]];
                y[r] = row_sum(row, count, i[4], early, storage) * late;
            } else if (i[4]) {
                for (long k = 0; k < count; k++) {
                    float v = from[places[k]] * early;
                    round_storage(&v, 1, storage);
                    sums[k % 2] += v;
                    round_storage(sums + k % 2, 1, storage);
                }
                sums[0] += sums[1];
                round_storage(sums, 1, storage);
                y[r] = sums[0] * late;
            } else {
                for (long k = 0; k < count; k++) sums[0] += from[places[k]];
                y[r] = sums[0] * share;
            }
        }
        round_storage(y, results, storage);
    }
}

/* Rows along some axes: where each starts, and where its values lie from there. */
enum { R_ROWS, R_SIZE, R_COUNT, R_STORAGE, R_LANES, R_LAST };

/* A chip's exp of a row, as normalization.Exponential describes it; f: inverse, log, the largest
 * value and the least; p[2]: terms, the last of which is i[6], p[3]: powers; i[7]: whole parts are
 * rounded down. */
static void exponentials(const Op *op, float *restrict x, long count) {
    const float *terms = op->p[2], *powers = op->p[3];
    float whole[WIDEST_CHANNELS], total[WIDEST_CHANNELS];
    int storage = op->i[R_STORAGE], last = op->i[6];
    for (long j = 0; j < count; j++) {
        float held = x[j] > op->f[2] ? op->f[2] : x[j];
        x[j] = held < op->f[3] ? op->f[3] : held;
    }
    for (long j = 0; j < count; j++) whole[j] = x[j] * op->f[0];
    round_storage(whole, count, storage);
    for (long j = 0; j < count; j++) whole[j] = op->i[7] ? floorf(whole[j]) : truncf(whole[j]);
    for (long j = 0; j < count; j++) total[j] = whole[j] * op->f[1];
    round_storage(total, count, storage);
    for (long j = 0; j < count; j++) x[j] -= total[j];
    round_storage(x, count, storage);
    for (long j = 0; j < count; j++) total[j] = terms[last];
    for (int term = last - 1; term >= 0; term--) {
        for (long j = 0; j < count; j++) total[j] *= x[j];
        round_storage(total, count, storage);
        for (long j = 0; j < count; j++) total[j] += terms[term];
        round_storage(total, count, storage);
    }
    for (long j = 0; j < count; j++) {
        float held = whole[j] < -128 ? -128 : whole[j] > 127 ? 127 : whole[j];
        x[j] = total[j] * powers[(int)held + 128];
    }
    round_storage(x, count, storage);
}

/* i: rows per image, values per image, values of a row, storage, lanes, a chip's exp; see there */
static void softmax(const Op *op, void **buffers, long n) {
    const int32_t *i = op->i, *starts = op->p[0], *places = op->p[1];
    long count = i[R_COUNT];
    int storage = i[R_STORAGE];
    float row[WIDEST_CHANNELS], copy[WIDEST_CHANNELS + WIDEST_LANES];
    for (long r = 0; r < n * i[R_ROWS]; r++) {
        long start = r / i[R_ROWS] * i[R_SIZE] + starts[r % i[R_ROWS]];
        const float *x = (const float *)buffers[op->src[0]] + start;
        float *y = (float *)buffers[op->dst] + start, most = x[places[0]];
        for (long k = 0; k < count; k++) most = x[places[k]] > most ? x[places[k]] : most;
        for (long k = 0; k < count; k++) row[k] = x[places[k]] - most;
        if (i[R_LAST]) {
            round_storage(row, count, storage);
            exponentials(op, row, count);
            memcpy(copy, row, sizeof(float) * (size_t)count);
            float share = chip_reciprocal(row_sum(copy, count, i[R_LANES], 1, F32), F32);
            share = rounded(share, storage);
            for (long k = 0; k < count; k++) row[k] *= share;
        } else {
            for (long k = 0; k < count; k++) row[k] = expf(row[k]);
            memcpy(copy, row, sizeof(float) * (size_t)count);
            float sum = row_sum(copy, count, 0, 1, F32);
            for (long k = 0; k < count; k++) row[k] /= sum;
        }
        round_storage(row, count, storage);
        for (long k = 0; k < count; k++) y[places[k]] = row[k];
    }
}

/* i: values per image, function, how it is computed, storage, a chip's exp as above, the last term of
 * p[4]: log's series or erfc's; p[5]: the constants of a gelu by tanh */
enum { ABSVAL, SQRT, EXP, SIGMOID, SILU, TANH, ERF, GELU, LN, SOFT_PLUS, RSQRT };
enum { EXACT, BY_ROOT, BY_RECIPROCAL };

INLINE float exact_function(int kind, double x) {
    switch (kind) {
    case ABSVAL: return (float)fabs(x);
    case SQRT: return (float)sqrt(x);
    case EXP: return (float)exp(x);
    case SIGMOID: return (float)(1 / (1 + exp(-x)));
    case SILU: return (float)(x / (1 + exp(-x)));
    case ERF: return (float)erf(x);
    case GELU: return (float)(0.5 * x * (1 + erf(x / sqrt(2.0))));
    case LN: return (float)log(x);
    case RSQRT: return (float)(1 / sqrt(x));
    case SOFT_PLUS: return (float)log(exp(x) + 1);
    default: return (float)tanh(x);
    }
}

/* A series of p[4], from its last term. */
INLINE float series(const Op *op, float x) {
    const float *terms = op->p[4];
    float total = terms[op->i[8]];
    for (int term = op->i[8] - 1; term >= 0; term--) total = total * x + terms[term];
    return total;
}

/* A chip's log, as activation.Logarithm describes it. */
static float chip_log(const Op *op, float x) {
    int32_t bits;
    float share, rest;
    memcpy(&bits, &x, 4);
    int power = (int32_t)((uint32_t)bits - 0x3f2aaaabu) >> 23;
    power = power < -128 ? -128 : power > 128 ? 128 : power;
    bits = (int32_t)((uint32_t)(127 - power) << 23);
    memcpy(&share, &bits, 4);
    rest = x * share - 1;
    return (float)power * 0.69314718f + series(op, rest) * rest;
}

/* A chip's erf of a row. */
static void error_function(const Op *op, float *restrict x, long count) {
    float size[WIDEST_CHANNELS], share[WIDEST_CHANNELS], sign[WIDEST_CHANNELS];
    for (long j = 0; j < count; j++) {
        size[j] = fabsf(x[j]);
        sign[j] = x[j] > 0 ? 1 : x[j] < 0 ? -1 : 0;
        share[j] = chip_reciprocal(1 + size[j] * 0.5f, F32);
        x[j] = series(op, share[j]) - size[j] * size[j];
    }
    exponentials(op, x, count);
    for (long j = 0; j < count; j++) x[j] = sign[j] * (1 - share[j] * x[j]);
}

static void activation(const Op *op, void **buffers, long n) {
    const float *restrict x = buffers[op->src[0]];
    float *restrict y = buffers[op->dst];
    int kind = op->i[1], way = op->i[2], storage = op->i[R_STORAGE];
    long count = n * op->i[0];
    int by_erf = kind == ERF || (kind == GELU && way == BY_ROOT);
    int by_tanh = kind == TANH || kind == GELU;
    float factor = by_tanh ? 2 : kind == EXP || kind == SOFT_PLUS ? 1 : -1;
    const float *tanh_of = op->p[5];
    for (long at = 0; at < count; at += WIDEST_CHANNELS, x += WIDEST_CHANNELS, y += WIDEST_CHANNELS) {
        long part = count - at < WIDEST_CHANNELS ? count - at : WIDEST_CHANNELS;
        if (way == EXACT || kind == ABSVAL) {
            for (long j = 0; j < part; j++) y[j] = exact_function(kind, x[j]);
        } else if (kind == SQRT || kind == RSQRT) {
            for (long j = 0; j < part; j++) {
                float root = chip_root(x[j], storage, 3);
                y[j] = kind == RSQRT ? root : way == BY_ROOT ? x[j] * root : chip_reciprocal(root, storage);
            }
        } else if (kind == LN) {
            for (long j = 0; j < part; j++) y[j] = chip_log(op, x[j]);
        } else if (by_erf) {
            for (long j = 0; j < part; j++) y[j] = kind == GELU ? x[j] * 0.70710678f : x[j];
            error_function(op, y, part);
        } else {
            for (long j = 0; j < part; j++) {
                float cube = kind == GELU ? x[j] * x[j] * x[j] : 0;
                y[j] = factor * (kind == GELU ? tanh_of[0] * (x[j] + tanh_of[1] * cube) : x[j]);
            }
            exponentials(op, y, part);
            for (long j = 0; j < part && kind != EXP; j++) {
                if (kind == SOFT_PLUS) {
                    y[j] = chip_log(op, 1 + y[j]);
                    continue;
                }
                float share = chip_reciprocal(1 + y[j], storage);
                y[j] = by_tanh ? 1 - 2 * share : kind == SILU ? x[j] * share : share;
            }
        }
        for (long j = 0; j < part && kind == GELU && way != EXACT; j++)
            y[j] = x[j] * 0.5f * (1 + y[j]);
        round_storage(y, part, storage);
    }
}

/* i: rows per image, bytes per image, values of a row; f: scale; p[2]: exp of a difference */
static void softmax_bytes(const Op *op, void **buffers, long n) {
    const int32_t *i = op->i, *starts = op->p[0], *places = op->p[1];
    const float *table = op->p[2];
    long count = i[R_COUNT];
    for (long r = 0; r < n * i[R_ROWS]; r++) {
        long start = r / i[R_ROWS] * i[R_SIZE] + starts[r % i[R_ROWS]];
        const uint8_t *x = (const uint8_t *)buffers[op->src[0]] + start;
        uint8_t *y = (uint8_t *)buffers[op->dst] + start, most = 0;
        float sum = 0;
        for (long k = 0; k < count; k++) most = x[places[k]] > most ? x[places[k]] : most;
        for (long k = 0; k < count; k++) sum += table[most - x[places[k]]];
        sum *= op->f[0];
        for (long k = 0; k < count; k++) {
            float share = table[most - x[places[k]]] / sum + 0.5f;
            y[places[k]] = share < 255 ? (uint8_t)share : 255;
        }
    }
}

/* i: rows per image, values per image, values of a row, storage, lanes, Newton steps of a chip;
 * f: 1/n in storage and in float32, epsilon; p[2], p[3]: weight and bias, or none */
static void layer_norm(const Op *op, void **buffers, long n) {
    const int32_t *i = op->i, *starts = op->p[0], *places = op->p[1];
    const float *weight = op->p[2], *bias = op->p[3];
    long count = i[R_COUNT];
    int storage = i[R_STORAGE], lanes = i[R_LANES], steps = i[R_LAST];
    float row[WIDEST_CHANNELS], copy[WIDEST_CHANNELS + WIDEST_LANES];
    for (long r = 0; r < n * i[R_ROWS]; r++) {
        long start = r / i[R_ROWS] * i[R_SIZE] + starts[r % i[R_ROWS]];
        const float *x = (const float *)buffers[op->src[0]] + start;
        float *y = (float *)buffers[op->dst] + start;
        for (long k = 0; k < count; k++) copy[k] = row[k] = x[places[k]];
        float mean = row_sum(copy, count, lanes, op->f[0], storage);
        if (!steps) mean /= (float)count;
        for (long k = 0; k < count; k++) row[k] -= mean;
        round_storage(row, count, storage);
        for (long k = 0; k < count; k++) copy[k] = row[k] * row[k];
        float variance = row_sum(copy, count, lanes, op->f[1], F32);
        if (!steps) variance /= (float)count;
        variance += op->f[2];
        float root = steps ? rounded(chip_root(variance, F32, steps), storage)
                           : 1.0f / sqrtf(variance);
        for (long k = 0; k < count; k++) row[k] *= root;
        round_storage(row, count, storage);
        if (weight)
            for (long k = 0; k < count; k++) row[k] *= weight[k];
        round_storage(row, count, storage);
        if (bias)
            for (long k = 0; k < count; k++) row[k] += bias[k];
        round_storage(row, count, storage);
        for (long k = 0; k < count; k++) y[places[k]] = row[k];
    }
}

/* i: channels, rows, columns, storage, a chip's order (even and odd rows apart), 1/n at the end of
 * it: mean over rows */
static void mean_rows(const Op *op, void **buffers, long n) {
    long c = op->i[0], rows = op->i[1], size = op->i[2] * c;
    int storage = op->i[3], late = op->i[5];
    for (long image = 0; image < n; image++) {
        const float *restrict x = (const float *)buffers[op->src[0]] + image * rows * size;
        float *restrict y = (float *)buffers[op->dst] + image * size;
        if (op->i[4]) {
            float early = late ? 1.0f : op->f[0];
            float *restrict odd = buffers[op->scratch], *restrict row = odd + size;
            for (long j = 0; j < size; j++) odd[j] = 0.0f;
            for (long r = 0; r < rows; r++) {
                float *restrict sum = r % 2 ? odd : y;
                for (long j = 0; j < size; j++) row[j] = x[r * size + j] * early;
                if (!late) round_storage(row, size, storage);
                if (r < 2) {
                    memcpy(sum, row, sizeof(float) * (size_t)size);
                    continue;
                }
                for (long j = 0; j < size; j++) sum[j] += row[j];
                round_storage(sum, size, storage);
            }
            for (long j = 0; j < size; j++) y[j] += odd[j];
            if (late) {
                round_storage(y, size, storage);
                for (long j = 0; j < size; j++) y[j] *= op->f[0];
            }
        } else {
            for (long j = 0; j < size; j++) y[j] = 0.0f;
            for (long r = 0; r < rows; r++)
                for (long j = 0; j < size; j++) y[j] += x[r * size + j];
            for (long j = 0; j < size; j++) y[j] *= op->f[0];
        }
        round_storage(y, size, storage);
    }
}

/* i: pieces per image, bytes of a piece of the result, where the first operand's go, whether its
 * last bytes are padding, bytes without padding; then bytes of each operand's piece, and how far
 * apart they lie */
static void concat(const Op *op, void **buffers, long n) {
    const int32_t *i = op->i;
    long pieces = n * i[0], stride = i[1], at = i[2];
    for (int s = 0; s < op->n_src; s++) {
        long part = i[5 + s], apart = i[5 + 4 + s];
        const uint8_t *x = buffers[op->src[s]];
        uint8_t *y = (uint8_t *)buffers[op->dst] + at;
        for (long p = 0; p < pieces; p++) memcpy(y + p * stride, x + p * apart, (size_t)part);
        at += part;
    }
    if (i[3]) clear_padding(buffers[op->dst], pieces, i[4], stride);
}

/* i: values per image of the result and of the operand, bytes of a value, runs or 0; p: runs of
 * (to, from, length), or for each value of the result where it comes from; what is -1 is filled
 * with the value f, or byte i[4]. */
static void gather(const Op *op, void **buffers, long n) {
    const int32_t *i = op->i, *table = op->p[0];
    long count = i[0], size = i[1], width = i[2];
    for (long image = 0; image < n; image++) {
        const uint8_t *x = (const uint8_t *)buffers[op->src[0]] + image * size * width;
        uint8_t *y = (uint8_t *)buffers[op->dst] + image * count * width;
        if (i[3]) {
            for (const int32_t *run = table; run < table + 3L * i[3]; run += 3)
                if (run[1] >= 0)
                    memcpy(y + run[0] * width, x + run[1] * width, (size_t)(run[2] * width));
                else if (width == 1)
                    memset(y + run[0], i[4], (size_t)run[2]);
                else
                    for (long j = 0; j < run[2]; j++) ((float *)y)[run[0] + j] = op->f[0];
        } else if (width == 1) {
            for (long j = 0; j < count; j++) y[j] = table[j] < 0 ? (uint8_t)i[4] : x[table[j]];
        } else {
            for (long j = 0; j < count; j++)
                ((float *)y)[j] = table[j] < 0 ? op->f[0] : ((const float *)x)[table[j]];
        }
    }
}

/* i: bytes per image; p: the constant */
static void constant(const Op *op, void **buffers, long n) {
    for (long image = 0; image < n; image++)
        memcpy((uint8_t *)buffers[op->dst] + image * op->i[0], op->p[0], (size_t)op->i[0]);
}

/* Every second or fourth byte is the low byte of a wider word; compilers know how to pack those. */
typedef uint16_t __attribute__((aligned(1), may_alias)) word16;

INLINE void pick_bytes(uint8_t *restrict y, const uint8_t *restrict x, long count, long step) {
    long j = 0;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    /* The last word may reach past the tensor, so the last byte is taken alone. */
    if (step == 2)
        for (; j < count - 1; j++) y[j] = (uint8_t)((const word16 *)x)[j];
    else if (step == 4)
        for (; j < count - 1; j++) y[j] = (uint8_t)((const word32 *)x)[j];
#endif
    for (; j < count; j++) y[j] = x[step * j];
}

/* i: input rows, columns, channel stride; output rows, columns, channels, stride;
 * offsets and steps of channel, row, column; bytes per channel */
static void slice(const Op *op, void **buffers, long n) {
    const int32_t *i = op->i;
    long ih = i[0], iw = i[1], is = i[2], oh = i[3], ow = i[4], oc = i[5], os = i[6];
    for (long line = 0; line < n * oh; line++) {
        long image = line / oh, r = line % oh;
        long from = ((image * ih + i[8] + r * i[11]) * iw + i[9]) * is + i[7];
        for (long w = 0; w < ow; w++, from += i[12] * is) {
            long to = (line * ow + w) * os;
            if (i[13] == 1) {
                uint8_t *y = (uint8_t *)buffers[op->dst] + to;
                pick_bytes(y, (const uint8_t *)buffers[op->src[0]] + from, oc, i[10]);
                for (long j = oc; j < os; j++) y[j] = 0;
            } else {
                const float *x = (const float *)buffers[op->src[0]] + from;
                float *y = (float *)buffers[op->dst] + to;
                for (long j = 0; j < oc; j++) y[j] = x[i[10] * j];
            }
        }
    }
}

typedef void (*Kernel)(const Op *, void **, long);
static const Kernel KERNELS[] = {
    input_floats, input_bytes, convolve_bytes, convolve_depth, convolve_floats, matmul_bytes,
    matmul_floats, pool, mean_bytes, quantize, dequantize, lookup, float_unary, channel_scale,
    float_scale, add_bytes, multiply_bytes, two_floats, divide, float_cast, mean_all, mean_lanes,
    mean_rows, mean_places, softmax, softmax_bytes, layer_norm,
    activation, concat, slice, gather, constant};

/* Run a program on n images.
 *
 * Subnormal floats count as zero meanwhile. The published weights have dead channels whose products
 * are around 1e-40; a core takes a hundred times longer over each. The interpreter keeps them, so a
 * float tensor may hold 0 where it holds less than 1.2e-38, which no later layer can tell. */
void run_program(const Op *ops, long count, void **buffers, long n) {
#if defined(__SSE2__)
    unsigned control = _mm_getcsr();
    _mm_setcsr(control | 0x8040u); /* flush to zero, denormals are zero */
#endif
    for (long k = 0; k < count; k++) KERNELS[ops[k].kind](ops + k, buffers, n);
#if defined(__SSE2__)
    _mm_setcsr(control);
#endif
}

int32_t op_size(void) { return (int32_t)sizeof(Op); }
