/*
 * A checkpoint that is damaged, missing or renamed → an older chain and a longer replay, or, when
 * nothing reaches back, a typed refusal. Never a wrong state.
 *
 * Goal: P1, P4 for the files of checkpoint/, with the whole runtime above them. Method: real
 * processes with LMDB files (crash_trial.c), and the laboratory where every file can be taken.
 * What the damage does to one file alone is judged in test_ckpt_damage.c. Loss: process death
 * before the damage.
 */
#include "tests/fault/crash_trial.h"
#include "tests/fault/lab.h"
#include "tests/fault/numbered.h"

#include <sys/stat.h>
#include <unistd.h>

static struct trial trial;

/* Once the log has been trimmed, two disjoint chains reach its begin: any one file may be lost. */
static void open_with_two_chains(uint64_t seed)
{
    trial_open(&trial, seed);
    int code = trial_run(
        &trial, &(struct trial_life){.point = "WAL_AFTER_TRIM", .hit = 1, .forever = true});
    ck_assert_msg(code == TRIAL_KILLED, "%d: %s", code, trial_said(&trial));
    ck_assert_msg(trial_fine(&trial), "%s", trial.why);
}

static void finish(void)
{
    ck_assert_msg(trial_finish(&trial, 60), "%s", trial.why);
    trial_close(&trial);
}

/* ---- 59-61: what LMDB would not notice, or crash on ---- */

START_TEST(f59_a_flipped_value_costs_a_longer_replay_only)
{
    for (uint64_t i = 0; i < 8; i++) {
        open_with_two_chains(590 + i);
        ck_assert(trial_flip_checkpoint(&trial, 8192 + i * 1500));
        finish();
    }
    numbered_trials("f59_a_flipped_value_costs_a_longer_replay_only", 8);
}
END_TEST

START_TEST(f60_a_damaged_meta_page_costs_a_longer_replay_only)
{
    static const uint64_t offsets[] = {16, 20, 100, 4096 + 16, 4096 + 100};

    for (size_t i = 0; i < sizeof offsets / sizeof offsets[0]; i++) {
        open_with_two_chains(600 + i);
        ck_assert(trial_flip_checkpoint(&trial, offsets[i]));
        finish();
    }
    numbered_trials("f60_a_damaged_meta_page_costs_a_longer_replay_only", 5);
}
END_TEST

/* The transaction number is the last field of a meta page: 16 bytes of page header, 128 before
 * it. LMDB takes the page with the higher number, whatever it holds. */
START_TEST(f61_a_raised_transaction_number_rolls_nothing_back)
{
    for (uint64_t page = 0; page < 2; page++) {
        open_with_two_chains(610 + page);
        ck_assert(trial_flip_checkpoint(&trial, page * 4096 + 16 + 128 + 2));
        finish();
    }
    numbered_trials("f61_a_raised_transaction_number_rolls_nothing_back", 2);
}
END_TEST

START_TEST(f62_a_truncated_or_extended_checkpoint_is_not_mapped)
{
    static const int changes[] = {-20480, -4096, -1, 1, 4096};

    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        struct stat st;
        open_with_two_chains(620 + i);
        const char *path = trial_newest_checkpoint(&trial);
        ck_assert_ptr_nonnull(path);
        ck_assert_int_eq(stat(path, &st), 0);
        off_t size = st.st_size + changes[i];
        ck_assert_int_eq(truncate(path, size < 0 ? 0 : size), 0);
        finish();
    }
    numbered_trials("f62_a_truncated_or_extended_checkpoint_is_not_mapped", 5);
}
END_TEST

/* ---- 63: the name is the manifest ---- */

START_TEST(f63_a_checkpoint_under_another_name_is_not_believed)
{
    char to[700];

    for (int digit = 0; digit < 5; digit++) {
        open_with_two_chains(630 + (uint64_t)digit);
        const char *path = trial_newest_checkpoint(&trial);
        int n = snprintf(to, sizeof to, "%s", path);
        /* <sequence>-<from>-<to>-<size>-<hash>.ckpt, 16 digits each */
        char *c = to + n - 5 - 1 - digit * 17;
        *c = *c == '1' ? '2' : '1';
        ck_assert_int_eq(rename(path, to), 0);
        finish();
    }
    numbered_trials("f63_a_checkpoint_under_another_name_is_not_believed", 5);
}
END_TEST

START_TEST(f63_a_missing_newest_checkpoint_is_made_up_for)
{
    open_with_two_chains(639);
    ck_assert_int_eq(unlink(trial_newest_checkpoint(&trial)), 0);
    finish();
}
END_TEST

/* ---- 64: all of them ---- */

static struct lab lab;

static void flip_all(void)
{
    int n = (int)lab_file_count(&lab, LAB_CKPT, ".ckpt");

    ck_assert_int_gt(n, 0);
    for (int i = 0; i < n; i++) {
        uint64_t size;
        uint8_t *bytes = lab_bytes(&lab, lab_file(&lab, LAB_CKPT, ".ckpt", i), &size);
        bytes[size / 2] ^= 4;
    }
}

START_TEST(f64_without_any_good_checkpoint_a_whole_log_is_replayed)
{
    lab_open(&lab, 64);
    lab_history(&lab, 24, true, true);
    struct wal_facts facts;
    lab_scan(&lab, &facts);
    bool whole = facts.first_lsn == 1;
    wal_facts_release(&facts);
    ck_assert_msg(whole, "the log was trimmed already: send less");
    flip_all();
    lab_must_finish(&lab);
    lab_close(&lab);
}
END_TEST

START_TEST(f64_without_any_good_checkpoint_a_trimmed_log_is_refused)
{
    lab_open(&lab, 641);
    lab_history(&lab, 600, true, true);
    struct wal_facts facts;
    lab_scan(&lab, &facts);
    bool whole = facts.first_lsn == 1;
    wal_facts_release(&facts);
    ck_assert_msg(!whole, "the log was not trimmed: send more");
    flip_all();
    lab_must_refuse(&lab, LEVEE_ECKPT_NONE, NULL);
    flip_all();
    lab_must_finish(&lab);
    lab_close(&lab);
}
END_TEST

/* Each file alone, with a trimmed log: the other chain is complete. */
START_TEST(f59_any_one_checkpoint_file_may_be_lost)
{
    int files = 1;

    for (int i = 0; i < files; i++) {
        lab_open(&lab, 599);
        lab_history(&lab, 600, true, true);
        files = (int)lab_file_count(&lab, LAB_CKPT, ".ckpt");
        uint64_t size;
        uint8_t *bytes = lab_bytes(&lab, lab_file(&lab, LAB_CKPT, ".ckpt", i), &size);
        bytes[size / 3] ^= 1;
        ck_assert_msg(lab_finish(&lab), "file %d of %d: %s", i, files, lab.why);
        lab_close(&lab);
    }
    ck_assert_int_gt(files, 2);
    numbered_trials("f59_any_one_checkpoint_file_may_be_lost", (uint64_t)files);
}
END_TEST

/* ---- 36: nothing is removed before its successor is durable (power loss) ---- */

START_TEST(f36_trimming_and_removing_survive_power_loss)
{
    uint64_t trials = 0;

    for (uint64_t seed = 1; seed <= (numbered_full() ? 400 : 60); seed++, trials++) {
        lab_open(&lab, 3600 + seed);
        lab_faults(&lab, (struct sim_faults){.seed = seed,
                                             .crash_at_step = 300 + seed * 7,
                                             .keep_per_mille = (uint32_t)(seed % 5) * 250});
        if (lab_start(&lab) == LEVEE_OK) {
            lab_send(&lab, 900);
        }
        lab_power_loss(&lab);
        ck_assert_msg(lab_finish(&lab), "seed %llu: %s", (unsigned long long)seed, lab.why);
        lab_close(&lab);
    }
    numbered_trials("f36_trimming_and_removing_survive_power_loss", trials);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        f36_trimming_and_removing_survive_power_loss,
        f59_a_flipped_value_costs_a_longer_replay_only,
        f59_any_one_checkpoint_file_may_be_lost,
        f60_a_damaged_meta_page_costs_a_longer_replay_only,
        f61_a_raised_transaction_number_rolls_nothing_back,
        f62_a_truncated_or_extended_checkpoint_is_not_mapped,
        f63_a_checkpoint_under_another_name_is_not_believed,
        f63_a_missing_newest_checkpoint_is_made_up_for,
        f64_without_any_good_checkpoint_a_whole_log_is_replayed,
        f64_without_any_good_checkpoint_a_trimmed_log_is_refused,
    };
    Suite *s = suite_create("damaged checkpoints");

    for (size_t i = 0; i < ARRAY_LEN(tests); i++) {
        numbered_add(s, tests[i], numbered_full() ? 3600 : 120);
    }
    return suite_main(s);
}
