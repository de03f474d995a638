/*
 * The scanner against an independent model: logs made by the reference, damaged, scanned; which
 * entries are found, what is damage and what a torn tail must be what the model says that looks at
 * the groups and the damaged bytes only. Rules 4d.2 and 4d.3; catalogue 50 to 58. The loss is
 * damage at rest, and the torn tails that a power loss leaves.
 */
#include "tests/unit/test_wal.h"

#define SIZE (64u << 10)

static struct ref_log r;

/* ---- the model ---- */

#define DAMAGE_MAX 8

static struct {
    int segment;
    uint64_t offset, len;
} damage[DAMAGE_MAX];
static int damage_count;

static bool intact(int segment, uint64_t offset, uint64_t len)
{
    for (int i = 0; i < damage_count; i++) {
        if (damage[i].segment == segment && damage[i].offset < offset + len &&
            offset < damage[i].offset + damage[i].len) {
            return false;
        }
    }
    return true;
}

static bool header_intact(const struct ref_frame *f)
{
    return intact(f->segment, f->offset, 64);
}

static bool frame_intact(const struct ref_frame *f)
{
    return intact(f->segment, f->offset, 64 + f->len);
}

static bool group_intact(const struct ref_group *g)
{
    for (int i = g->first_frame; i < g->first_frame + g->frames; i++) {
        if (!frame_intact(&r.frames[i])) {
            return false;
        }
    }
    return true;
}

struct expected_bad {
    int segment;
    uint64_t lsn, end;
    bool synced;                   /* a later whole group in the same segment proves it */
    const struct ref_group *group; /* the first bad one; NULL: there is none */
};

static struct expected {
    bool kept[REF_FRAMES]; /* of ref_log.frames */
    struct expected_bad bads[REF_GROUPS];
    int bad_count;
    uint64_t first, next, witnessed, epoch;
    uint64_t damaged_seals;
} want;

static bool segment_readable(int s)
{
    return intact(s, 0, BLOCK) || intact(s, BLOCK, BLOCK);
}

/* The group with index i in segment s, NULL behind the last one. */
static const struct ref_group *group_of(int s, int i)
{
    for (int g = 0; g < r.group_count; g++) {
        if (r.groups[g].segment == s && i-- == 0) {
            return &r.groups[g];
        }
    }
    return NULL;
}

static bool start_intact(int s)
{
    const struct ref_group *g = group_of(s, 0);

    return g && frame_intact(&r.frames[g->first_frame]);
}

static uint64_t limit_of(int s)
{
    for (int k = s + 1; k < r.segment_count; k++) {
        if (segment_readable(k) && start_intact(k)) {
            return r.segments[k].first_lsn;
        }
    }
    return UINT64_MAX;
}

static void want_bad(int segment, uint64_t lsn, uint64_t end, bool synced,
                     const struct ref_group *group)
{
    want.bads[want.bad_count++] = (struct expected_bad){segment, lsn, end, synced, group};
}

static void model_witness(uint64_t floor)
{
    want.witnessed = floor;
    for (int i = 0; i < r.frame_count; i++) {
        const struct ref_frame *f = &r.frames[i];
        if (segment_readable(f->segment) && header_intact(f) &&
            r.groups[f->group].first < limit_of(f->segment) && f->durable > want.witnessed) {
            want.witnessed = f->durable;
        }
    }
}

/* Walks the groups of one segment; *lsn is what the next one must begin with. */
static void model_segment(int s, uint64_t limit, uint64_t *lsn)
{
    int i = 0;

    for (const struct ref_group *g; (g = group_of(s, i)) != NULL && *lsn < limit; i++) {
        if (group_intact(g)) {
            for (int f = g->first_frame; f < g->first_frame + g->frames; f++) {
                want.kept[f] = ref_is_data(&r.frames[f]);
            }
            *lsn = g->last + 1;
            continue;
        }
        const struct ref_group *next = NULL;
        for (int k = i + 1; (next = group_of(s, k)) != NULL && !group_intact(next); k++) {
        }
        if (next && next->first < limit) {
            if (next->first > *lsn) {
                want_bad(s, *lsn, next->first, true, g);
            } else {
                want.damaged_seals++; /* nothing is missing */
            }
            *lsn = next->first;
            while (group_of(s, i + 1) != next) {
                i++;
            }
        } else {
            want_bad(s, *lsn, limit, false, g);
            return;
        }
    }
}

/* A segment of which the header or the first frame is gone. */
static void model_lost_segment(int s, uint64_t limit, uint64_t lsn)
{
    bool synced = false;

    if (segment_readable(s)) {
        const struct ref_group *g;
        for (int i = 1; (g = group_of(s, i)) != NULL; i++) {
            synced = synced || (group_intact(g) && g->first >= lsn && g->first < limit);
        }
    }
    if (limit > lsn) { /* else the next segment goes on where the one before ended */
        want_bad(s, lsn, limit, synced, segment_readable(s) ? group_of(s, 0) : NULL);
    }
}

static void model(uint64_t floor)
{
    uint64_t lsn = 1;

    memset(&want, 0, sizeof want);
    model_witness(floor);
    for (int s = 0; s < r.segment_count; s++) {
        uint64_t limit = limit_of(s), epoch = r.segments[s].epoch;
        if (segment_readable(s) && start_intact(s) && epoch > want.epoch) {
            want.epoch = epoch;
        }
        if (!segment_readable(s) || (group_of(s, 0) && !start_intact(s))) {
            model_lost_segment(s, limit, lsn);
            continue;
        }
        if (!group_of(s, 0)) {
            continue;
        }
        uint64_t first = r.segments[s].first_lsn;
        if (first >= limit) {
            continue; /* void from its first frame on */
        }
        if (want.first == 0) {
            want.first = first;
        } else if (first > lsn && !(want.bad_count && want.bads[want.bad_count - 1].end == first)) {
            want_bad(s, lsn, first, false, NULL);
        }
        lsn = first;
        model_segment(s, limit, &lsn);
    }
    want.next = lsn;
    for (int i = 0; i < want.bad_count; i++) {
        const struct expected_bad *b = &want.bads[i];
        if (!b->synced && b->lsn > want.witnessed) { /* the tail begins here */
            want.bad_count = i + 1;
            want.next = b->lsn < want.next ? b->lsn : want.next;
            for (int f = 0; f < r.frame_count; f++) {
                want.kept[f] = want.kept[f] && r.frames[f].lsn < b->lsn;
            }
        }
    }
    want.first = want.first ? want.first : want.next;
}

static void check_entry(const struct wal_facts *facts, const struct wal_entry *e,
                        const struct ref_frame *f)
{
    MUST(e->lsn == f->lsn && e->seq == f->seq && e->type == f->type && e->flags == f->flags);
    MUST(e->stream == f->stream && e->len == f->len && e->offset == f->offset);
    MUST(facts->segments[e->segment].number == r.segments[f->segment].number);
}

/* What the verdict's row depends on: the group's own seal, and verified frames behind the place. */
static void check_evidence(const struct wal_bad *b, const struct expected_bad *x)
{
    const struct ref_group *g = x->group;
    bool sealed = false, later = false;

    if (!g) {
        MUST(b->kind == WAL_BAD_HEADER || b->kind == WAL_BAD_MISSING);
        MUST(!b->group_seal_ok && !b->later_valid);
        return;
    }
    for (int i = 0; i < r.frame_count; i++) {
        const struct ref_frame *f = &r.frames[i];
        sealed = sealed || (i >= g->first_frame && i < g->first_frame + g->frames &&
                            f->type == WAL_GROUP_SEAL && frame_intact(f));
        later = later || (f->segment == g->segment && f->offset > b->offset &&
                          f->lsn < limit_of(f->segment) && header_intact(f));
    }
    MUST(b->group_offset == g->offset && b->offset < g->end);
    MUST(b->later_valid == later);
    if (b->group_lsn == g->first && g->first <= g->last) {
        MUST(b->group_seal_ok == sealed);
    }
}

static void check(const struct wal_facts *facts)
{
    size_t at = 0;

    for (int i = 0; i < r.frame_count; i++) {
        if (want.kept[i]) {
            MUST(at < facts->entry_count);
            check_entry(facts, &facts->entries[at++], &r.frames[i]);
        }
    }
    ck_assert_uint_eq(at, facts->entry_count);
    ck_assert_uint_eq(facts->next_lsn, want.next);
    ck_assert_uint_eq(facts->first_lsn, want.first);
    ck_assert_uint_eq(facts->witnessed_lsn, want.witnessed);
    ck_assert_uint_eq(facts->number_max, r.segments[r.segment_count - 1].number);
    ck_assert_uint_eq(facts->epoch_max, want.epoch);
    ck_assert_uint_eq(facts->damaged_seals, want.damaged_seals);
    ck_assert_uint_eq(facts->bad_count, (size_t)want.bad_count);
    for (int i = 0; i < want.bad_count; i++) {
        const struct wal_bad *b = &facts->bads[i];
        const struct expected_bad *x = &want.bads[i];
        ck_assert_uint_eq(b->group_lsn, x->lsn);
        ck_assert_uint_eq(b->end_lsn, x->end);
        ck_assert_int_eq(b->witnessed, x->synced || x->lsn <= want.witnessed);
        ck_assert_uint_eq(facts->segments[b->segment_index].number, r.segments[x->segment].number);
        ck_assert_str_eq(b->segment, facts->segments[b->segment_index].name);
        MUST(b->kind != WAL_BAD_NONE);
        MUST(b->lsn >= b->group_lsn && b->offset >= b->group_offset);
        check_evidence(b, x);
    }
    if (want.bad_count) {
        const struct wal_bad *first = &facts->bads[0];
        MUST(facts->bad.kind == first->kind && facts->bad.offset == first->offset);
        MUST(facts->bad.witnessed == first->witnessed && facts->bad.end_lsn == first->end_lsn);
    } else {
        MUST(facts->bad.kind == WAL_BAD_NONE);
    }
}

/* ---- running it ---- */

static void scan_and_check(uint64_t floor)
{
    struct wal_facts facts;

    model(floor);
    ck_assert_int_eq(wal_scan(io, WAL_DIR, &ref_context, floor, &facts, &err), LEVEE_OK);
    check(&facts);
    wal_facts_release(&facts);
}

static void put_damage(int segment, uint64_t offset, uint64_t len, uint8_t flip)
{
    uint64_t size;
    uint8_t *bytes = segment_bytes(r.segments[segment].number, &size);

    MUST(damage_count < DAMAGE_MAX && len > 0 && offset + len <= size);
    damage[damage_count].segment = segment;
    damage[damage_count].offset = offset;
    damage[damage_count++].len = len;
    for (uint64_t i = 0; i < len; i++) {
        bytes[offset + i] = r.segments[segment].bytes[offset + i] ^ flip; /* never undoes another */
    }
}

static void heal(void)
{
    for (int i = 0; i < damage_count; i++) {
        uint64_t size;
        const struct ref_segment *s = &r.segments[damage[i].segment];
        memcpy(segment_bytes(s->number, &size) + damage[i].offset, s->bytes + damage[i].offset,
               damage[i].len);
    }
    damage_count = 0;
}

static void close_log(void)
{
    damage_count = 0;
    ref_release(&r);
    close_machine();
}

/* A new life takes over at the beginning of a group still in force: what lies behind is void, and
 * its first group holds as many frames as become void (4d.2). Returns their number. */
static int next_life(uint64_t *rng)
{
    const struct ref_group *g;
    int groups = 0;

    while (group_of(r.segment_count - 1, groups)) {
        groups++;
    }
    MUST(groups > 0);
    g = group_of(r.segment_count - 1, (int)(rng_next(rng) % (unsigned)groups));
    MUST(g != NULL);
    int frames = (int)(r.next_lsn - g->first);
    r.next_lsn = g->first;
    r.durable = g->first - 1;
    return frames;
}

/* Segments with random groups, idle seals among them, of one life or several, and spares behind. */
static void random_log(uint64_t *rng)
{
    int segments = 1 + (int)(rng_next(rng) % 4), spares = (int)(rng_next(rng) % 2);
    uint64_t epoch = 1;

    for (int s = 0; s < segments; s++) {
        bool life = s > 0 && rng_next(rng) % 3 == 0;
        int rewritten = life ? next_life(rng) : 0;
        epoch += life;
        ref_begin(&r, (uint64_t)s + 1, SIZE, epoch);
        if (life) {
            ref_group(&r, rewritten, 1700, rng);
        }
        int groups = 1 + (int)(rng_next(rng) % 5);
        for (int g = 0; g < groups; g++) {
            int frames = rng_next(rng) % 4 == 0 ? 0 : 1 + (int)(rng_next(rng) % 6);
            ref_group(&r, frames, rng_next(rng) % 2 ? 200 : 1700, rng);
        }
    }
    for (int s = 0; s < spares; s++) {
        ref_begin(&r, (uint64_t)(segments + s) + 1, SIZE, 1);
    }
}

START_TEST(undamaged_logs_are_read_whole)
{
    for (uint64_t seed = 0; seed < 40; seed++) {
        uint64_t rng = seed;
        open_machine(seed);
        random_log(&rng);
        put_log(&r);
        scan_and_check(0);
        ck_assert_int_eq(want.bad_count, 0);
        ck_assert_uint_eq(want.next, r.next_lsn);
        scan_and_check(r.next_lsn + 100); /* a checkpoint that knows more: told, not judged, here */
        close_log();
    }
}
END_TEST

static void random_damage(uint64_t *rng)
{
    int s = (int)(rng_next(rng) % (unsigned)r.segment_count);
    uint64_t used = r.segments[s].at;

    switch (rng_next(rng) % 8) {
    case 0: /* a whole block of the device */
        put_damage(s, rng_next(rng) % (used / BLOCK) * BLOCK, BLOCK, 0x55);
        break;
    case 1: /* both copies of a header */
        put_damage(s, 100, 1, 0x80);
        put_damage(s, BLOCK + 200, 1, 0x80);
        break;
    case 2: { /* a SEGMENT_START, if there is one */
        put_damage(s, used > 8192 ? 8192 + rng_next(rng) % 104 : rng_next(rng) % 8192, 1, 0x10);
        break;
    }
    default: { /* a byte of a frame, but not of its padding zeros, which no hash covers */
        const struct ref_frame *f = &r.frames[rng_next(rng) % (unsigned)r.frame_count];
        put_damage(f->segment, f->offset + rng_next(rng) % (64 + f->len), 1, 0x04);
        break;
    }
    }
}

START_TEST(damaged_logs_give_what_the_model_says)
{
    int torn = 0, damaged = 0, seals = 0;

    for (uint64_t seed = 0; seed < 60; seed++) {
        uint64_t rng = seed;
        open_machine(seed);
        random_log(&rng);
        put_log(&r);
        for (int trial = 0; trial < 100; trial++) {
            uint64_t floor = trial % 4 == 0 ? rng_next(&rng) % r.next_lsn : 0;
            for (uint64_t n = 1 + rng_next(&rng) % 3; n > 0; n--) {
                random_damage(&rng);
            }
            scan_and_check(floor);
            seals += (int)want.damaged_seals;
            for (int i = 0; i < want.bad_count; i++) {
                bool witnessed = want.bads[i].synced || want.bads[i].lsn <= want.witnessed;
                torn += !witnessed;
                damaged += witnessed;
            }
            heal();
        }
        scan_and_check(0);
        close_log();
    }
    ck_assert_int_gt(torn, 500); /* the test has seen what it is for */
    ck_assert_int_gt(damaged, 500);
    ck_assert_int_gt(seals, 100);
}
END_TEST

/*
 * One bit of every byte in use, judged without the model: whatever is hit, all frames are still
 * found, or the loss is reported as damage; only a hit in the last group, which nothing witnesses,
 * may look like a torn tail, and then that group goes whole and nothing else does.
 */
static void flip_all(uint64_t *harmless, uint64_t *reported, uint64_t *cut)
{
    const struct ref_group *last = &r.groups[r.group_count - 1];
    size_t all = r.next_lsn - 1;

    for (int s = 0; s < r.segment_count; s++) {
        for (uint64_t at = 0; at < r.segments[s].at; at++) {
            struct wal_facts facts;
            bool told = false;
            put_damage(s, at, 1, (uint8_t)(1u << at % 8));
            MUST(wal_scan(io, WAL_DIR, &ref_context, 0, &facts, &err) == LEVEE_OK);
            for (size_t i = 0; i < facts.bad_count; i++) {
                told = told || facts.bads[i].witnessed;
            }
            bool in_last = s == last->segment && at >= last->offset;
            if (facts.entry_count == all) {
                (*harmless)++;
            } else if (told) {
                (*reported)++;
            } else if (in_last && facts.entry_count == last->first - 1) {
                (*cut)++;
            } else {
                ck_abort_msg("segment %d, offset %u: %zu of %zu entries, nothing said", s,
                             (unsigned)at, facts.entry_count, all);
            }
            wal_facts_release(&facts);
            heal();
        }
    }
}

START_TEST(no_flipped_bit_hides_an_acknowledged_frame)
{
    uint64_t rng = 5, harmless = 0, reported = 0, cut = 0;

    open_machine(5);
    ref_begin(&r, 1, SIZE, 1);
    ref_group(&r, 0, 1, &rng); /* as recovery leaves it when there was nothing to rewrite */
    ref_group(&r, 3, 60, &rng);
    ref_group(&r, 0, 1, &rng);
    ref_group(&r, 2, 60, &rng);
    ref_begin(&r, 2, SIZE, 1);
    ref_group(&r, 2, 60, &rng);
    ref_group(&r, 2, 60, &rng);
    ref_group(&r, 0, 1, &rng);
    ref_group(&r, 2, 60, &rng);
    put_log(&r);
    flip_all(&harmless, &reported, &cut);
    /* One copy of a header, idle seals, padding zeros; then witnessed groups; then the last one. */
    ck_assert_uint_gt(harmless, 2 * 8192 + 2 * BLOCK);
    ck_assert_uint_gt(reported, (uint64_t)3 * BLOCK);
    ck_assert_uint_gt(cut, BLOCK * 9 / 10);
    close_log();
}
END_TEST

/* A new life: its first group holds no data, and one acknowledged group follows. */
START_TEST(no_flipped_bit_hides_the_first_group_of_a_life)
{
    uint64_t rng = 6, harmless = 0, reported = 0, cut = 0;

    open_machine(6);
    for (uint64_t life = 1; life <= 2; life++) {
        ref_begin(&r, life, SIZE, life);
        ref_group(&r, 0, 1, &rng);
        ref_group(&r, 2, 60, &rng);
    }
    put_log(&r);
    flip_all(&harmless, &reported, &cut);
    ck_assert_uint_gt(harmless, 2 * 8192 + BLOCK);
    ck_assert_uint_gt(reported, BLOCK);
    ck_assert_uint_gt(cut, BLOCK * 9 / 10);
    close_log();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("wal_scan");
    TCase *t = tcase_create("model");

    tcase_add_test(t, undamaged_logs_are_read_whole);
    tcase_add_test(t, damaged_logs_give_what_the_model_says);
    tcase_add_test(t, no_flipped_bit_hides_an_acknowledged_frame);
    tcase_add_test(t, no_flipped_bit_hides_the_first_group_of_a_life);
    suite_add_tcase(suite, t);
    return suite_main(suite);
}
