/*
 * The Kafka source on a broker that is only reached encrypted: the client's properties for TLS are
 * passed through, and a broker whose certificate nobody vouches for is told of, and read nothing
 * from. Fault: wrong rights, the part that certificates have in it. Loss: none.
 *
 * keytool comes with Java, so that where there is a broker there are keys. The oracle is the state
 * at the end.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/fault/kafka_trial.h"
#include "tests/integration/test_kafka_source_rig.h"

static struct broker broker;
static bool keyless;
static struct rig rig;
static struct rig_expected expected;
static char directory[256], ours[320], strangers[320];
static const char *trusting[3], *wary[3];

/* keytool in our directory, with these arguments; what it says goes where nobody looks. */
static bool keytool(const char *const *arguments)
{
    const char *line[32] = {"keytool",  "-storepass", "changeit", "-keypass",
                            "changeit", "-storetype", "PKCS12"};
    size_t n = 7;
    int status = -1;

    while (*arguments && n < 31) {
        line[n++] = *arguments++;
    }
    pid_t pid = fork();
    if (pid == 0) {
        int nowhere = open("/dev/null", O_WRONLY);
        if (nowhere < 0 || chdir(directory) || dup2(nowhere, 1) < 0 || dup2(nowhere, 2) < 0) {
            _exit(126);
        }
        (void)execvp(line[0], (char *const *)(uintptr_t)line);
        _exit(127);
    }
    return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

/* name.p12 with a key for this address, and its certificate in name.pem. */
static bool make_keys(const char *name)
{
    char store[64], certificate[64];
    const char *const make[] = {"-genkeypair",
                                "-keystore",
                                store,
                                "-alias",
                                "a",
                                "-keyalg",
                                "EC",
                                "-groupname",
                                "secp256r1",
                                "-dname",
                                "CN=localhost",
                                "-ext",
                                "san=dns:localhost,ip:127.0.0.1",
                                "-ext",
                                "bc=ca:true",
                                NULL};
    const char *const show[] = {"-exportcert", "-rfc",  "-keystore", store, "-alias",
                                "a",           "-file", certificate, NULL};

    (void)snprintf(store, sizeof store, "%s.p12", name);
    (void)snprintf(certificate, sizeof certificate, "%s.pem", name);
    return keytool(make) && keytool(show);
}

static void start(void)
{
    static char store[400];
    const char *tmp = getenv("TMPDIR");
    const char *const properties[] = {
        "listener.security.protocol.map=CLIENT:SSL,BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
        store,
        "listener.name.client.ssl.keystore.type=PKCS12",
        "listener.name.client.ssl.keystore.password=changeit",
        "listener.name.client.ssl.key.password=changeit",
        "auto.create.topics.enable=true",
        NULL};

    (void)snprintf(directory, sizeof directory, "%s/levee-tls-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(directory) || !make_keys("broker") || !make_keys("stranger")) {
        keyless = true; /* where there is no Java there is no broker either */
    }
    (void)snprintf(store, sizeof store, "listener.name.client.ssl.keystore.location=%s/broker.p12",
                   directory);
    (void)snprintf(ours, sizeof ours, "ssl.ca.location=%s/broker.pem", directory);
    (void)snprintf(strangers, sizeof strangers, "ssl.ca.location=%s/stranger.pem", directory);
    trusting[0] = wary[0] = "security.protocol=ssl";
    trusting[1] = ours;
    wary[1] = strangers;
    (void)broker_start(&broker, ktrial_version(), 1, properties);
}

static void stop(void)
{
    static const char *const names[] = {"broker.p12", "broker.pem", "stranger.p12", "stranger.pem"};
    char path[400];

    (void)broker_stop(&broker);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        (void)remove(path);
    }
    (void)remove(directory);
}

static bool begin(const char *topic, const char *const *properties)
{
    const struct broker_how how = {.properties = trusting};

    if (!broker_usable(&broker)) {
        return false;
    }
    ck_assert_msg(!keyless, "keytool makes no keys");
    BROKER_MUST(&broker, broker_send_numbers(&broker, topic, 0, 1, 1000, &how));
    rig_expect_numbers(&expected, 1, 1000);
    rig_open(&rig, broker_address(&broker), topic);
    rig.text = rig_text_timeless;
    rig.kafka.properties = properties;
    return true;
}

START_TEST(l_acl_properties_for_tls_reach_the_client)
{
    if (!begin("encrypted", trusting)) {
        return;
    }
    rig.kafka.group = "encrypted";
    rig_up(&rig);
    rig_await(&rig, 1000);
    rig_down(&rig);
    rig_up(&rig); /* its position is verified over a connection of the same kind */
    const struct broker_how how = {.properties = trusting};
    BROKER_MUST(&broker, broker_send_numbers(&broker, "encrypted", 0, 5000, 100, &how));
    rig_expect_numbers(&expected, 5000, 100);
    rig_await(&rig, 1100);
    rig_drain(&rig);
    rig_must_hold(&rig, &expected);
    rig_close(&rig);
    rig_expected_release(&expected);
}
END_TEST

START_TEST(l_acl_a_certificate_nobody_vouches_for_is_told_of)
{
    struct levee_error err = {0};

    if (!begin("unvouched", wary)) {
        return;
    }
    rig_up(&rig);
    rig_await_said(&rig, "ertificate verif");
    rig_await_error(&rig, 1);
    ck_assert_int_eq(rig.error.code, LEVEE_EBROKER);
    ck_assert_int_eq(rig.total, 0);
    int64_t before = rig_now_ms();
    ck_assert_int_eq(levee_stop(rig.ctx, &err), LEVEE_OK);
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_OK);
    ck_assert_int_lt(rig_now_ms() - before, 3000);
    rig_down(&rig);
    rig.kafka.properties = trusting; /* corrected */
    rig_up(&rig);
    rig_await(&rig, 1000);
    rig_drain(&rig);
    rig_must_hold(&rig, &expected);
    rig_close(&rig);
    rig_expected_release(&expected);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("encrypted Kafka source");

    start();
    numbered_add(s, l_acl_properties_for_tls_reach_the_client, 60);
    numbered_add(s, l_acl_a_certificate_nobody_vouches_for_is_told_of, 60);
    int code = suite_main(s);
    stop();
    return code;
}
