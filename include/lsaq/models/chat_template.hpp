// Turns a conversation into a prompt, for the chat formats that are recognised in a model's Jinja template: ChatML, Llama 2, Llama 3. Jinja itself is not run.
#pragma once

#include <lsaq/error.hpp>

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace lsaq::inline v0 {

/// One turn of a conversation.
struct ChatMessage {
  std::string role; ///< "system", "user" or "assistant"
  std::string content;
};

/// The formats that can be written.
enum class ChatFormat : unsigned char { chatml, llama2, llama3 };

/// What the templates take from the tokenizer.
struct ChatOptions {
  std::string bos{};                 ///< text of the beginning-of-text token, which the Llama formats write
  std::string eos{};                 ///< text of the end-of-text token
  bool add_generation_prompt = true; ///< ends with the start of the assistant's turn, where the format has one
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// The format a template writes, or nothing if it does more or other than the known ones (reasoning, dates, other separators).
inline std::optional<ChatFormat> chat_format_of(std::string_view chat_template) noexcept {
  const auto has = [&](std::string_view text) { return chat_template.find(text) != std::string_view::npos; };
  if (has("<|im_start|>") && has("<|im_end|>") && has("<|im_start|>assistant")) {
    for (const std::string_view other : {"<|im_sep|>", "<think>", "trim", "strip(", "bos_token", "strftime"})
      if (has(other)) return std::nullopt;
    return ChatFormat::chatml;
  }
  if (has("<|start_header_id|>") && has("<|end_header_id|>") && has("<|eot_id|>")) {
    if (has("Cutting Knowledge Date") || has("strftime")) return std::nullopt;
    return ChatFormat::llama3;
  }
  if (has("[INST] ") && has(" [/INST]") && has("<<SYS>>") && has("<</SYS>>")) return ChatFormat::llama2;
  return std::nullopt;
}

/// The system message that a ChatML template puts in front of conversations without one, empty if there is none; nothing if the template has something else
/// there than a plain string.
inline std::optional<std::string> default_system_message(std::string_view chatml_template) {
  static constexpr std::string_view start = "<|im_start|>system";
  for (std::size_t at = chatml_template.find(start); at != std::string_view::npos; at = chatml_template.find(start, at + 1)) {
    const char quote = at == 0 ? '\0' : chatml_template[at - 1];
    if (quote != '\'' && quote != '"') return std::nullopt;
    std::string text;
    bool closed = false;
    for (std::size_t i = at + start.size(); i < chatml_template.size() && chatml_template[i] != quote && !closed; ++i) {
      char c = chatml_template[i];
      if (c == '\\' && i + 1 < chatml_template.size()) {
        c = chatml_template[++i];
        c = c == 'n' ? '\n' : c == 't' ? '\t' : c;
      }
      text.push_back(c);
      closed = text.ends_with("<|im_end|>");
    }
    // A literal that ends before <|im_end|> is the frame of a system message that is given.
    if (closed && text.starts_with('\n')) return text.substr(1, text.size() - 1 - std::string_view("<|im_end|>").size());
  }
  return std::string();
}

/// Writes conversations in one format; see apply_chat_template.
class ChatWriter {
public:
  ChatWriter(std::span<const ChatMessage> messages, const ChatOptions& options) : messages_(messages), options_(options) {}

  Expected<std::string> chatml(std::string_view chat_template) {
    const auto system = default_system_message(chat_template);
    if (!system) return failure("the model's chat template has a system message of an unknown form");
    if (!system->empty() && messages_.front().role != "system") chatml_turn("system", *system);
    for (const ChatMessage& message : messages_) chatml_turn(message.role, message.content);
    if (options_.add_generation_prompt) out_ += "<|im_start|>assistant\n";
    return std::move(out_);
  }

  Expected<std::string> llama3() {
    out_ = options_.bos;
    for (const ChatMessage& message : messages_) llama3_header(message.role).append(trimmed(message.content)).append("<|eot_id|>");
    if (options_.add_generation_prompt) llama3_header("assistant");
    return std::move(out_);
  }

  Expected<std::string> llama2() {
    std::string system;
    if (messages_.front().role == "system") {
      system = "<<SYS>>\n" + messages_.front().content + "\n<</SYS>>\n\n";
      messages_ = messages_.subspan(1);
    }
    for (std::size_t i = 0; i < messages_.size(); ++i) {
      const ChatMessage& message = messages_[i];
      const bool user = i % 2 == 0;
      if (message.role != (user ? "user" : "assistant")) return failure("Llama 2's chat format needs user and assistant to take turns, the user first");
      if (user) {
        const std::string content = i == 0 ? system + message.content : message.content;
        out_.append(options_.bos).append("[INST] ").append(trimmed(content)).append(" [/INST]");
      } else {
        out_.append(" ").append(trimmed(message.content)).append(" ").append(options_.eos);
      }
    }
    return std::move(out_);
  }

  static Expected<std::string> failure(std::string message) { return Expected<std::string>::Failure{.message = std::move(message)}; }

private:
  void chatml_turn(std::string_view role, std::string_view content) {
    out_.append("<|im_start|>").append(role).append("\n").append(content).append("<|im_end|>\n");
  }

  std::string& llama3_header(std::string_view role) { return out_.append("<|start_header_id|>").append(role).append("<|end_header_id|>\n\n"); }

  static std::string_view trimmed(std::string_view text) noexcept {
    static constexpr std::string_view space = " \t\n\v\f\r";
    const std::size_t begin = text.find_first_not_of(space);
    if (begin == std::string_view::npos) return {};
    return text.substr(begin, text.find_last_not_of(space) + 1 - begin);
  }

  std::span<const ChatMessage> messages_;
  const ChatOptions& options_;
  std::string out_;
};

/// The conversation as a prompt in the format of the model's template. The prompt holds special tokens as text, its beginning-of-text token included where the
/// template writes one: encode it with {.add_bos = false, .parse_special = true}.
///
/// Fails with a sentence if there are no messages, there is no template, or it is not of a known format.
inline Expected<std::string> apply_chat_template(std::string_view chat_template, std::span<const ChatMessage> messages, const ChatOptions& options = {}) {
  if (messages.empty()) return ChatWriter::failure("a chat prompt needs at least one message");
  if (chat_template.empty()) return ChatWriter::failure("the model has no chat template");
  const auto format = chat_format_of(chat_template);
  if (!format) return ChatWriter::failure("the model's chat template is of an unknown format; ChatML, Llama 2 and Llama 3 are known");
  ChatWriter writer(messages, options);
  switch (*format) {
  case ChatFormat::chatml: return writer.chatml(chat_template);
  case ChatFormat::llama2: return writer.llama2();
  case ChatFormat::llama3: return writer.llama3();
  }
  return ChatWriter::failure("unknown chat format");
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
