// The lsaq command: importance, plan, quantized run and evaluation of a model from its file. See docs/command.md.
#include "console.hpp"

#include <lsaq/error.hpp>
#include <lsaq/formats/names.hpp>

#include <CLI/CLI.hpp>

#include <fmt/format.h>

#include <new>
#include <sstream>

#define LSAQ_TEXT_OF(x) #x
#define LSAQ_TEXT(x) LSAQ_TEXT_OF(x)

namespace {

int report(const char* sentence, int code) {
  fmt::print(stderr, "lsaq: {}\n", sentence);
  return code;
}

/// An empty value is a shell variable that was not set, never a wish.
void refuse_empty_values(CLI::App& app) {
  for (CLI::App* verb : app.get_subcommands({}))
    for (CLI::Option* option : verb->get_options())
      option->check([](const std::string& value) { return std::string(value.empty() ? "the value is empty" : ""); });
}

/// One line about a command line that was not understood.
std::string usage_message(const CLI::App& app, const CLI::ParseError& error) {
  const std::vector<CLI::App*> verbs = app.get_subcommands();
  const std::vector<std::string> rest = app.remaining();
  const std::string problem = verbs.empty() && !rest.empty() ? "\"" + rest.front() + "\" is no verb" : error.what();
  return fmt::format("{} (lsaq {}--help tells more)", lsaq::printable(problem, 200), verbs.empty() ? "" : verbs.front()->get_name() + " ");
}

} // namespace

int main(int argc, char** argv) {
  CLI::App app{"Fits a large language model into the memory that is free now: layer importance, bits per layer, quantized weights, text.", "lsaq"};
  app.set_version_flag("--version", "lsaq " LSAQ_TEXT(LSAQ_VERSION_MAJOR) "." LSAQ_TEXT(LSAQ_VERSION_MINOR) "." LSAQ_TEXT(LSAQ_VERSION_PATCH));
  app.require_subcommand(1);
  app.get_formatter()->column_width(28);
  app.footer("MODEL is a GGUF file or a Hugging Face folder (config.json and safetensors).\n"
             "Exit codes: 0 done, 2 wrong usage, 3 does not fit, 4 bad input file, 5 I/O failed, 130 interrupted.");
  command::Global global;
  command::add_inspect(app, global);
  command::add_devices(app, global);
  command::add_importance(app, global);
  command::add_costs(app, global);
  command::add_plan(app, global);
  command::add_quantize(app, global);
  command::add_run(app, global);
  command::add_eval(app, global);
  command::add_compare(app, global);
  refuse_empty_values(app);

  try {
    command::catch_interrupts();
    try {
      app.parse(argc, argv);
    } catch (const CLI::Success& wanted) { // --help, --version
      std::ostringstream text;
      app.exit(wanted, text, text);
      command::print_text(text.str());
    }
    return command::done;
  } catch (const CLI::ParseError& error) {
    return report(usage_message(app, error).c_str(), command::wrong_usage);
  } catch (const command::Interrupted&) {
    return report("interrupted", command::interrupted);
  } catch (const lsaq::Infeasible& error) {
    return report(error.what(), command::does_not_fit);
  } catch (const lsaq::InvalidArgument& error) {
    return report(error.what(), command::wrong_usage);
  } catch (const lsaq::BadInput& error) {
    return report(error.what(), command::bad_input);
  } catch (const lsaq::IoError& error) {
    return report(error.what(), command::io_failed);
  } catch (const std::bad_alloc&) {
    return report("out of memory: the system refused an allocation; free memory or set a smaller --memory", command::does_not_fit);
  } catch (const std::exception& error) {
    return report(error.what(), command::io_failed);
  }
}
