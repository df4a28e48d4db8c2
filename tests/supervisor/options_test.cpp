#include "supervisor/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "supervisor/options_table.h"

namespace supervise {
namespace {

using ::testing::HasSubstr;
using Args = std::vector<std::string>;

class Options : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string base = "/tmp/supervise-options-XXXXXX";
    ASSERT_NE(::mkdtemp(base.data()), nullptr);
    base_ = std::filesystem::canonical(base).string();
    for (const char* name : {"first", "second", "third", "shared", "first-too"})
      ASSERT_TRUE(std::filesystem::create_directory(base_ + "/" + name));
    std::ofstream(base_ + "/file") << "x";
  }
  void TearDown() override { std::filesystem::remove_all(base_); }

  std::string dir(const std::string& name) const { return base_ + "/" + name; }
  static Invocation parsed(const Args& args) {
    auto result = parse_command_line(args);
    EXPECT_TRUE(result.ok()) << (result.ok() ? "" : result.error().message());
    return result.ok() ? result.take() : Invocation{};
  }
  static std::string refused(const Args& args) {
    auto result = parse_command_line(args);
    EXPECT_FALSE(result.ok());
    return result.ok() ? "" : result.error().message();
  }
  Invocation from_config(const std::string& text, Args more = {}) {
    std::ofstream(base_ + "/config") << text;
    more.insert(more.begin(), {"--config", base_ + "/config"});
    more.insert(more.end(), {"--", "app"});
    return parsed(more);
  }
  std::string config_refused(const std::string& text) {
    std::ofstream(base_ + "/config") << text;
    return refused({"--config", base_ + "/config", "--", "app"});
  }
  std::string base_;
};

TEST_F(Options, TheContractsFirstExample) {
  const auto run = parsed({"--name", "app", "--path", "data=" + dir("first") + "," + dir("second"),
                           "--standby", "dir:" + dir("shared"), "--", "app", "--name", "-x", "--"});
  EXPECT_EQ(run.command, CommandId::Run);
  EXPECT_EQ(run.run.name, "app");
  ASSERT_EQ(run.run.paths.size(), 1u);
  EXPECT_EQ(run.run.paths[0].name, "data");
  EXPECT_EQ(run.run.paths[0].dirs, (Args{dir("first"), dir("second")}));
  EXPECT_EQ(run.run.standby, "dir:" + dir("shared"));
  EXPECT_EQ(run.run.app, (Args{"app", "--name", "-x", "--"}));
  EXPECT_EQ(run.run.handover_exit_code, 113);
  EXPECT_EQ(run.run.journal, JournalMode::Content);
  ASSERT_EQ(run.warnings.size(), 1u);
  EXPECT_THAT(run.warnings[0], HasSubstr("one file system"));

  const auto standby = parsed({"standby", "--name", "app", "--path", "data=" + dir("third"), "--from",
                               "dir:" + dir("shared"), "--ready=image", "--activate", "command",
                               "--drift", "truncate"});
  EXPECT_EQ(standby.command, CommandId::Standby);
  EXPECT_EQ(standby.standby.from, "dir:" + dir("shared"));
  EXPECT_EQ(standby.standby.ready, ReadyLevel::Image);
  EXPECT_TRUE(standby.standby.activate_on_command);
  EXPECT_EQ(standby.standby.drift, DriftPolicy::Truncate);
}

TEST_F(Options, TheWordRunAndTheNameMayBeLeftOut) {
  EXPECT_EQ(parsed({"run", "--", "/usr/bin/my app"}).run.name, "my-app");
  EXPECT_EQ(parsed({"--", "./x.sh"}).run.name, "x.sh");
  EXPECT_EQ(parsed({"run", "--observe", "--", "run"}).run.app, Args{"run"});
}

TEST_F(Options, EveryOptionOfRunArrives) {
  const auto run = parsed({"--path", "d=" + dir("first"), "--on", "d:fsync:EIO=report", "--observe",
                           "--journal", "ranges", "--journal-limit", "64M", "--images", "images",
                           "--tcp", "reset", "--events", "ev", "--log-format", "json", "--log-level",
                           "debug", "--handover-exit-code", "99", "--path-deadline", "5s",
                           "--path-down", "d=umount $SUPERVISE_DIR", "--", "app"}).run;
  ASSERT_EQ(run.rules.size(), 1u);
  EXPECT_EQ(run.rules[0].where, "d");
  EXPECT_TRUE(run.observe);
  EXPECT_EQ(run.journal, JournalMode::Ranges);
  EXPECT_EQ(run.journal_limit, 64u << 20);
  EXPECT_TRUE(run.images_dir.starts_with("/") && run.images_dir.ends_with("/images"));
  EXPECT_EQ(run.tcp, TcpPolicy::Reset);
  EXPECT_TRUE(run.log.events_file.ends_with("/ev"));
  EXPECT_EQ(run.log.format, LogFormat::Json);
  EXPECT_EQ(run.log.level, LogLevel::Debug);
  EXPECT_EQ(run.handover_exit_code, 99);
  EXPECT_EQ(run.path_deadline, Millis(5000));
  EXPECT_EQ(run.paths[0].down, "umount $SUPERVISE_DIR");
}

TEST_F(Options, PathsAreMadeAbsoluteAndFreeOfLinks) {
  std::filesystem::create_directory_symlink(dir("first"), dir("link"));
  EXPECT_EQ(parsed({"--path", "d=" + dir("link") + "/../first/.", "--", "app"}).run.paths[0].dirs[0],
            dir("first"));
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(base_);
  EXPECT_EQ(parsed({"--path", "d=second", "--", "app"}).run.paths[0].dirs[0], dir("second"));
  std::filesystem::current_path(before);
}

struct Bad {
  Args args;
  const char* told;
};

TEST_F(Options, ErrorsNameOptionPlaceAndExpectation) {
  const std::string first = dir("first"), second = dir("second");
  const std::vector<Bad> cases = {
      {{}, "nothing to do"},
      {{"--"}, "no program"},
      {{"--name", "x"}, "no program"},
      {{"--name", "x", "app"}, "'app': expected an option; the program comes after `--`"},
      {{"statsu"}, "did you mean status?"},
      {{"--nmae", "x", "--", "a"}, "--nmae (argument 1): `supervise run` has no such option; did you mean --name?"},
      {{"--nam", "x", "--", "a"}, "--nam"},
      {{"-x", "--", "a"}, "-x"},
      {{"--metrics", "f", "--", "a"}, "not available in this version"},
      {{"--name"}, "--name: expected a value NAME"},
      {{"--name", "--", "a"}, "--name: expected a value NAME"},
      {{"--name", "a/b", "--", "a"}, "--name 'a/b': character 2"},
      {{"--name", ".a", "--", "a"}, "character 1"},
      {{"--name", "a", "--name", "b", "--", "a"}, "--name: given twice ('a' and 'b')"},
      {{"--observe=1", "--", "a"}, "--observe: takes no value"},
      {{"--path", "data", "--", "a"}, "--path 'data': character 5: expected NAME="},
      {{"--path", "=/x", "--", "a"}, "character 1: expected a name"},
      {{"--path", "d=", "--", "a"}, "character 3"},
      {{"--path", "d=" + first + ",,x", "--", "a"}, "expected a directory"},
      {{"--path", "d=/none/there", "--", "a"}, "No such file or directory"},
      {{"--path", "d=" + dir("file"), "--", "a"}, "Not a directory"},
      {{"--path", "d=/", "--", "a"}, "/ can't be a storage path"},
      {{"--path", "d=" + first + "," + first, "--", "a"}, "named twice"},
      {{"--path", "d=" + first + "," + base_, "--", "a"}, "within one another"},
      {{"--path", "d=" + first, "--path", "d=" + second, "--", "a"}, "path d is declared twice"},
      {{"--path", "d=" + first, "--path", "e=" + first, "--", "a"}, "named twice"},
      {{"--path-up", "d=true", "--", "a"}, "there is no --path d=..."},
      {{"--path", "d=" + first, "--path-up", "d=", "--", "a"}, "expected COMMAND"},
      {{"--path", "d=" + first, "--on", "e:fsync:EIO=report", "--", "a"}, "there is no --path e=..., expected d or *"},
      {{"--on", "*:getpid:EIO=report", "--", "a"}, "getpid"},
      {{"--on", "*:fsync:EIO=explode", "--", "a"}, "--on '*:fsync:EIO=explode'"},
      {{"--on", "nonsense", "--", "a"}, "--on 'nonsense'"},
      {{"--journal", "all", "--", "a"}, "expected one of: content, ranges, off"},
      {{"--journal-limit", "12Q", "--", "a"}, "--journal-limit '12Q'"},
      {{"--journal-limit", "1", "--", "a"}, "at least 4096"},
      {{"--handover-exit-code", "0", "--", "a"}, "from 1 to 255"},
      {{"--handover-exit-code", "126", "--", "a"}, "another number"},
      {{"--handover-exit-code", "1x", "--", "a"}, "character 2: expected a number"},
      {{"--path-deadline", "soon", "--", "a"}, "--path-deadline 'soon'"},
      {{"--path-deadline", "0s", "--", "a"}, "--path-deadline '0s'"},
      {{"--standby", "shared", "--", "a"}, "expected dir:PATH or HOST:PORT (no port"},
      {{"--standby", "b.example:70000", "--", "a"}, "expected dir:PATH or HOST:PORT (the port is no number"},
      {{"--standby", "dir:/", "--tls", "/", "--", "a"}, "means something with HOST:PORT only"},
      {{"standby", "--name", "a", "--from", "dir:/", "--listen", ":7410"}, "expected --from or --listen, not both"},
      {{"standby", "--name", "a", "--listen", "7410"}, "no port"},
      {{"keys", "dir"}, "supervise keys DIR HOST..."},
      {{"--standby", "dir:", "--", "a"}, "character 5"},
      {{"--standby", "dir:/none", "--", "a"}, "No such file"},
      {{"--config", "/none", "--", "a"}, "--config: open /none"},
      {{"standby", "--from", "dir:" + dir("shared")}, "--name: expected"},
      {{"standby", "--name", "a"}, "--from dir:PATH or --listen HOST:PORT: expected one"},
      {{"standby", "--name", "a", "--from", "dir:" + first, "--path", "d=" + first + "," + second},
       "expected one directory"},
      {{"standby", "--name", "a", "--from", "dir:" + first, "--observe"}, "`supervise standby` has no such option"},
      {{"restore"}, "no image"},
      {{"restore", "/none"}, "IMAGE '/none'"},
      {{"restore", first, "x"}, "one argument too many"},
      {{"checkpoint"}, "no name"},
      {{"checkpoint", "../x"}, "NAME '../x'"},
      {{"checkpoint", "a", "--operand", "b"}, "--operand"},
      {{"images"}, "expected list, inspect"},
      {{"images", "burn"}, "images 'burn'"},
      {{"images", "export", "x"}, "IMAGE FILE"},
      {{"images", "prune", "x", "--keep", "0"}, "from 1 to"},
      {{"images", "free"}, "free IMAGE"},
      {{"completions", "fish"}, "expected bash"},
      {{"help", "nothing"}, "help 'nothing': no such command"},
  };
  for (const auto& bad : cases)
    EXPECT_THAT(refused(bad.args), HasSubstr(bad.told)) << ::testing::PrintToString(bad.args);
}

TEST_F(Options, ConfigFileGivesWhatTheCommandLineDoesNot) {
  const auto text = "# a comment\n\nname = fromfile\n  journal-limit=8M  # half\nobserve = yes\npath = d=" +
                    dir("first") + "\npath = e=" + dir("second") + "\nhandover-exit-code = 7\n";
  const auto run = from_config(text).run;
  EXPECT_EQ(run.name, "fromfile");
  EXPECT_EQ(run.journal_limit, 8u << 20);
  EXPECT_TRUE(run.observe);
  ASSERT_EQ(run.paths.size(), 2u);
  EXPECT_EQ(run.paths[1].name, "e");
  EXPECT_EQ(run.handover_exit_code, 7);

  const auto over = from_config(text, {"--name", "line", "--path", "x=" + dir("third")}).run;
  EXPECT_EQ(over.name, "line");
  ASSERT_EQ(over.paths.size(), 1u);
  EXPECT_EQ(over.paths[0].name, "x");
  EXPECT_FALSE(from_config("observe = no\n").run.observe);
}

TEST_F(Options, ConfigErrorsNameTheLine) {
  const auto file = base_ + "/config";
  EXPECT_THAT(config_refused("name = a\n\njournal = all\n"), HasSubstr(file + ":3: journal 'all'"));
  EXPECT_THAT(config_refused("nmae = a\n"), HasSubstr(file + ":1: nmae"));
  EXPECT_THAT(config_refused("name = a\nname = b\n"), HasSubstr(file + ":2: name 'b': given twice"));
  EXPECT_THAT(config_refused("\njust words\n"), HasSubstr(file + ":2: 'just words'"));
  EXPECT_THAT(config_refused("observe = maybe\n"), HasSubstr("expected yes or no"));
  EXPECT_THAT(config_refused("config = other\n"), HasSubstr("can't name another"));
}

TEST_F(Options, WarnsOfAHookThatIsNeverRun) {
  const auto out = parsed({"--path", "d=" + dir("first"), "--path-up", "d=true", "--", "a"});
  ASSERT_EQ(out.warnings.size(), 1u);
  EXPECT_THAT(out.warnings[0], HasSubstr("never run"));
  EXPECT_TRUE(parsed({"--path", "d=" + dir("first") + "," + dir("second"), "--path-up", "d=true", "--",
                      "a"}).warnings.empty());
}

TEST_F(Options, OtherCommands) {
  const auto checkpoint = parsed({"checkpoint", "app", "--stop", "--timeout", "3s"});
  EXPECT_EQ(checkpoint.command, CommandId::Checkpoint);
  EXPECT_EQ(checkpoint.control.name, "app");
  EXPECT_TRUE(checkpoint.control.stop);
  EXPECT_EQ(checkpoint.control.timeout, Millis(3000));
  EXPECT_TRUE(parsed({"status"}).control.name.empty());
  EXPECT_TRUE(parsed({"status", "app", "--json"}).control.json);
  const auto images = parsed({"images", "prune", "app", "--keep", "2", "--images", dir("shared")});
  EXPECT_EQ(images.images.action, "prune");
  EXPECT_EQ(images.images.keep, 2u);
  EXPECT_EQ(images.images.images_dir, dir("shared"));
  EXPECT_FALSE(parsed({"images", "free", "app/2"}).images.force);
  EXPECT_TRUE(parsed({"images", "free", "app/2", "--force"}).images.force);
  EXPECT_EQ(parsed({"images", "list"}).images.images_dir, default_images_dir());
  EXPECT_EQ(parsed({"--version"}).command, CommandId::Version);
  EXPECT_EQ(parsed({"--help"}).topic, "");
  EXPECT_EQ(parsed({"standby", "--help"}).topic, "standby");
  EXPECT_EQ(parsed({"run", "-h", "--", "x"}).topic, "run");
  EXPECT_EQ(parsed({"help", "doctor"}).topic, "doctor");
}

TEST(OptionTable, HelpManualAndCompletionsComeFromIt) {
  for (const auto& command : command_table()) {
    const auto help = help_text(command.name);
    EXPECT_THAT(help, HasSubstr(std::string(command.synopsis))) << command.name;
    EXPECT_THAT(help, HasSubstr("Examples:"));
    EXPECT_THAT(help_text(""), HasSubstr(std::string(command.summary)));
    EXPECT_THAT(completion_script("bash"), HasSubstr(std::string(command.name)));
    for (const auto& option : option_table()) {
      const bool takes = (option.commands & command_bit(command.id)) != 0;
      EXPECT_EQ(help.find("\n  --" + std::string(option.name) + (option.value.empty() ? "\n" : " ")) !=
                    std::string::npos, takes) << command.name << " " << option.name;
    }
  }
  for (const auto* name : {"SUPERVISE_CRIU", "SUPERVISE_CRIU_DEADLINE", "SUPERVISE_RUNDIR", "SUPERVISE_HOST_ID"}) {
    EXPECT_THAT(help_text(""), HasSubstr(name));
    EXPECT_THAT(manual_page(), HasSubstr(name));
  }
  EXPECT_TRUE(help_text("nothing").empty());
  EXPECT_TRUE(completion_script("csh").empty());
}

// Every example of the help, with its directories made.
TEST_F(Options, WhatHelpShowsAsAnExampleIsAccepted) {
  std::filesystem::create_directories(dir("shared") + "/app/gen-000003");
  const auto replace = [](std::string text, const std::string& from, const std::string& to) {
    for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
      text.replace(at, from.size(), to);
    return text;
  };
  int checked = 0;
  for (const auto& command : command_table()) {
    std::istringstream examples{std::string(command.examples)};
    for (std::string line; std::getline(examples, line);) {
      line = replace(replace(line, "/srv/", base_ + "/"), "/shared/images", dir("shared"));
      line = replace(line.substr(0, line.find_first_of("|>")), "'", "");
      std::istringstream words(line);
      Args args;
      for (std::string word; words >> word;) args.push_back(word);
      ASSERT_EQ(args.front(), "supervise") << command.name;
      args.erase(args.begin());
      EXPECT_EQ(parsed(args).command, command.id) << line;
      ++checked;
    }
  }
  EXPECT_GT(checked, 15);
}

}  // namespace
}  // namespace supervise
