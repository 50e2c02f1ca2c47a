#include "part_writer.hpp"

namespace command {

PartWriter::PartWriter(std::vector<PartFile> files, std::string key, std::function<lsaq::Bytes(std::size_t)> part_bytes)
    : files_(std::move(files)), key_(std::move(key)), part_bytes_(std::move(part_bytes)) {
  // Files of a folder that is not complete yet are complete themselves where they are; a single file has its name only at the end.
  while (file_ + 1 < files_.size() && std::filesystem::exists(file().path)) next_ = files_[file_++].end_part;
  open();
}

lsaq::Bytes PartWriter::bytes() const {
  lsaq::Bytes sum = 0;
  for (const PartFile& file : files_) {
    sum += file.header.size();
    for (std::size_t part = file.first_part; part < file.end_part; ++part) sum += part_bytes_(part);
  }
  return sum;
}

void PartWriter::open() {
  output_ = std::make_unique<lsaq::ResumableFile>(file().path, key_);
  next_ = file().first_part;
  if (output_->safe() == 0) return output_->write(file().header);
  lsaq::Bytes bytes = file().header.size();
  while (next_ < file().end_part && bytes < output_->safe()) bytes += part_bytes_(next_++);
  if (bytes != output_->safe()) lsaq::fail<lsaq::IoError>(lsaq::printable_path(file().path) + ".partial: ends within a part; remove it");
}

void PartWriter::start_over() {
  output_->start_over();
  output_.reset();
  std::error_code error;
  for (const PartFile& complete : std::span(files_).first(file_)) std::filesystem::remove(complete.path, error);
  file_ = 0;
  open();
}

void PartWriter::write(std::span<const std::byte> bytes) { output_->write(bytes); }

bool PartWriter::end_part(bool due) {
  if (++next_ < file().end_part) {
    if (due) output_->mark_safe();
    return due;
  }
  output_->commit();
  output_.reset();
  if (++file_ < files_.size()) open();
  return true;
}

} // namespace command
